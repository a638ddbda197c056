/* program_device.c - what the executor does with a device: collectives between calls, captured graphs, nothing more.
 *
 * The device is the CPU with two additions: it can capture (its kernels are recorded instead of run), and it counts. */
#include "parallel/comm.h"
#include "tests/small_gpt.h"

#include <CUnit/Basic.h>

static m2_device *cpu;

/* ---- a CPU that captures ------------------------------------------------------------------------------------------ */
enum { MAX_RECORDED = 256 };

struct m2_graph {
    int n;
    m2_call call[MAX_RECORDED];
};

static struct {
    m2_graph *open;
    int runs, captures, launches, graphs;
} fake;

static m2_status record_or_run(const m2_call *c)
{
    if (!fake.open) return fake.runs++, c->op->run(c);
    if (fake.open->n == MAX_RECORDED) return m2_fail(M2_BUG, "the fake graph is full");
    fake.open->call[fake.open->n++] = *c;
    return M2_OK;
}

static m2_run_fn fake_lookup(m2_device *dev, const m2_op *op)
{
    (void)dev;
    return op->run ? record_or_run : NULL;
}

static m2_status fake_begin(m2_device *dev, m2_stream *stream)
{
    (void)dev, (void)stream;
    fake.captures++;
    fake.graphs++;
    fake.open = calloc(1, sizeof *fake.open);
    return M2_OK;
}

static m2_status fake_end(m2_device *dev, m2_stream *stream, m2_graph **out)
{
    (void)dev, (void)stream;
    *out = fake.open;
    fake.open = NULL;
    return M2_OK;
}

static m2_status fake_launch(m2_device *dev, m2_graph *graph, m2_stream *stream)
{
    (void)dev, (void)stream;
    fake.launches++;
    for (int i = 0; i < graph->n; i++) M2_TRY(graph->call[i].op->run(&graph->call[i]));
    return M2_OK;
}

static void fake_destroy(m2_device *dev, m2_graph *graph)
{
    (void)dev;
    fake.graphs--;
    free(graph);
}

/* ---- an all-reduce over one rank that takes notes ----------------------------------------------------------------- */
enum { MAX_NOTES = 512 };

static struct {
    m2_comm comm; /* of one rank: nobody has to wait in it */
    int n;
    const char *at[MAX_NOTES];
    int64_t bytes[MAX_NOTES];
    char *copy[MAX_NOTES];
} notes = {.comm = {.size = 1}};

static void forget_notes(void)
{
    for (int i = 0; i < notes.n; i++) free(notes.copy[i]);
    notes.n = 0;
}

static m2_status note_run(const m2_call *c)
{
    if (c->context != &notes || fake.open)
        return m2_fail(M2_BUG, "a collective without its communicator, or captured");
    if (notes.n == MAX_NOTES) return m2_fail(M2_BUG, "too many collectives");
    const m2_tensor *t = &c->in[0];
    if (t->data != c->out[0].data || !m2_tensor_dense(t))
        return m2_fail(M2_BUG, "a collective that is not in place");
    notes.at[notes.n] = t->data;
    notes.bytes[notes.n] = m2_tensor_bytes(t);
    notes.copy[notes.n] = malloc((size_t)notes.bytes[notes.n]);
    memcpy(notes.copy[notes.n], t->data, (size_t)notes.bytes[notes.n]);
    notes.n++;
    return M2_OK;
}

static const m2_op note_reduce = {.name = "note_reduce",
                                  .id = -1,
                                  .n_in = 1,
                                  .n_out = 1,
                                  .in_name = {"x"},
                                  .out_name = {"x"},
                                  .run = note_run,
                                  .updates = {1}};

static run_way usual(void)
{
    return (run_way){.plan = {.threads = cpu->threads},
                     .precision = M2_PREC_F32,
                     .micros = 3,
                     .steps = 4,
                     .device = cpu,
                     .context = &notes,
                     .bucket_bytes = 1000};
}

/* ---- collectives -------------------------------------------------------------------------------------------------- */
/* In one step of three microbatches each bucket is reduced once, after its last writer: what it saw is what is there in
 * the end. The buckets tile the flat gradient. The first ones go out while the backward pass still runs. */
static void test_buckets(void)
{
    static const int64_t sizes[] = {1, 3000, 1 << 30};
    for (int k = 0; k < 3; k++) {
        m2_program *p;
        void *base;
        m2_dtype dtype;
        m2_step s = run_step_values(1);
        run_way way = usual();
        way.reduce = &note_reduce;
        way.bucket_bytes = sizes[k];
        CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &p), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, cpu), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, 3), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_flat(p, "grad", &base, &dtype), M2_OK);
        int first = -1, last_gradient = -1, collectives = 0;
        for (int i = 0; i < m2_program_calls(p); i++) {
            m2_call_info c = m2_program_call_info(p, i);
            if (c.op == &note_reduce && first < 0) first = i;
            if (c.op == &m2_op_embed_grad) last_gradient = i;
            collectives += c.op == &note_reduce;
        }
        CU_ASSERT(k == 2 ? first > last_gradient : first < last_gradient);
        for (int micro = 0; micro < 3; micro++) {
            CU_ASSERT_EQUAL(notes.n, 0);
            CU_ASSERT_EQUAL_FATAL(run_write_inputs(p, 1, micro), M2_OK);
            CU_ASSERT_EQUAL_FATAL(m2_program_run(p, &s, micro, 3), M2_OK);
        }
        CU_ASSERT_EQUAL(notes.n, collectives);
        int64_t end = m2_program_flat_trained(p) * 4, loss = 0;
        for (int i = 0; i < notes.n; i++) {
            CU_ASSERT(!memcmp(notes.copy[i], notes.at[i], (size_t)notes.bytes[i]));
            if (notes.bytes[i] == 4) {
                loss++;
                CU_ASSERT_EQUAL(*(const float *)(const void *)notes.at[i], (float)run_scalar(p, "loss"));
                continue;
            }
            CU_ASSERT(notes.bytes[i] >= sizes[k] || notes.at[i] == (char *)base);
            CU_ASSERT_EQUAL(notes.at[i] + notes.bytes[i], (char *)base + end);
            end -= notes.bytes[i];
        }
        CU_ASSERT_EQUAL(end, 0);
        CU_ASSERT_EQUAL(loss, 1);
        forget_notes();
        m2_program_free(&p);
    }
}

static void test_collectives_change_nothing(void)
{
    run_result without, with;
    run_way way = usual();
    CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, cpu, &way, &without), M2_OK);
    way.reduce = &note_reduce;
    CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, cpu, &way, &with), M2_OK);
    CU_ASSERT(run_equal(&without, &with));
    CU_ASSERT(notes.n > 0);
    forget_notes();
    run_free(&without);
    run_free(&with);
}

/* An EVAL program reduces its scalars only, in its last microbatch. */
static void test_eval_reduces_scalars(void)
{
    m2_program_spec spec = {
        .mode = M2_MODE_EVAL, .precision = M2_PREC_F32, .rows = 2, .rows_whole = 4, .length = 6};
    m2_program *p = m2_program_new(&spec);
    m2_plan_options opt = {.threads = 1};
    m2_step s = run_step_values(1);
    small_gpt(p, NULL);
    m2_tid sums[2] = {m2_program_find(p, "loss"), m2_program_find(p, "hits")};
    m2_program_reduce(p, &note_reduce, &notes, 0, sums, 2);
    CU_ASSERT_EQUAL_FATAL(m2_program_plan(p, &opt), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, cpu), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, 3), M2_OK);
    for (int micro = 0; micro < 2; micro++) {
        CU_ASSERT_EQUAL(notes.n, 0);
        CU_ASSERT_EQUAL_FATAL(run_write_inputs(p, 1, micro), M2_OK);
        CU_ASSERT_EQUAL_FATAL(m2_program_run(p, &s, micro, 2), M2_OK);
    }
    CU_ASSERT_EQUAL_FATAL(notes.n, 2);
    for (int i = 0; i < 2; i++) CU_ASSERT(notes.at[i] == (const char *)m2_program_tensor(p, sums[i]).data);
    forget_notes();
    m2_program_free(&p);
}

/* ---- graphs ------------------------------------------------------------------------------------------------------- */
static void test_graphs(void)
{
    m2_device_api api = *cpu->api;
    m2_device gpu = *cpu;
    api.lookup = fake_lookup;
    gpu.api = &api;
    for (int reduce = 0; reduce < 2; reduce++) {
        for (int micros = 1; micros <= 4; micros++) {
            run_result plain, graphs, off;
            run_way way = usual();
            way.micros = micros;
            way.device = &gpu;
            way.reduce = reduce ? &note_reduce : NULL;
            api.capture_begin = NULL;
            CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &plain), M2_OK);
            api.capture_begin = fake_begin;
            api.capture_end = fake_end;
            api.graph_launch = fake_launch;
            api.graph_destroy = fake_destroy;
            fake.captures = fake.launches = 0;
            CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &graphs), M2_OK);
            int variants = micros == 1 ? 1 : micros == 2 ? 2 : 3;
            if (!reduce) {
                CU_ASSERT_EQUAL(fake.captures, variants);
                CU_ASSERT_EQUAL(fake.launches, micros * way.steps - variants);
            } else {
                CU_ASSERT(fake.captures > variants);
            }
            CU_ASSERT_EQUAL(fake.graphs, 0);
            CU_ASSERT_EQUAL(graphs.allocations, 0);
            forget_notes();
            fake.captures = 0;
            way.plan.no_graph = 1;
            CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &off), M2_OK);
            CU_ASSERT_EQUAL(fake.captures, 0);
            CU_ASSERT(run_equal(&plain, &graphs));
            CU_ASSERT(run_equal(&plain, &off));
            forget_notes();
            run_free(&plain);
            run_free(&graphs);
            run_free(&off);
        }
    }
}

/* A kernel that is missing, or fails, is named with its path. */
static m2_run_fn without_longconv(m2_device *dev, const m2_op *op)
{
    (void)dev;
    return op == &m2_op_longconv ? NULL : op->run;
}

static void test_missing_kernel(void)
{
    m2_device_api api = *cpu->api;
    m2_device gpu = *cpu;
    m2_program *p;
    run_way way = usual();
    api.lookup = without_longconv;
    gpu.api = &api;
    CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &p), M2_OK);
    CU_ASSERT_EQUAL(m2_program_bind(p, &gpu), M2_USAGE);
    CU_ASSERT(strstr(m2_message(), "block.0.conv: longconv has no kernel on CPU") != NULL);
    CU_ASSERT_EQUAL(m2_program_bind(p, cpu), M2_OK); /* a failed bind leaves the plan as it was */
    int32_t bad[12] = {99};
    m2_step s = run_step_values(1);
    CU_ASSERT_EQUAL(m2_program_write(p, m2_program_find(p, "tokens"), bad), M2_OK);
    CU_ASSERT_EQUAL(m2_program_run(p, &s, 0, 1), M2_DATA);
    CU_ASSERT(strstr(m2_message(), "embed (embed): ") == m2_message());
    m2_program_free(&p);
}

int main(void)
{
    if (m2_device_open("cpu", 1, &cpu) != M2_OK) return 1;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("program on devices", NULL, NULL);
    CU_add_test(s, "buckets go out once, complete, early", test_buckets);
    CU_add_test(s, "collectives of one rank change nothing", test_collectives_change_nothing);
    CU_add_test(s, "evaluation reduces its scalars", test_eval_reduces_scalars);
    CU_add_test(s, "graphs replay what plain launches do", test_graphs);
    CU_add_test(s, "missing and failing kernels are named", test_missing_kernel);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&cpu);
    return failures != 0;
}
