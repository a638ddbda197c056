/* program_async.c - a device that is as late as it may be: everything it is given waits in a queue until somebody waits for
 * it. What the host changes too early, reads too early or waits for too often shows here without a GPU. */
#include "tests/small_gpt.h"

#include <CUnit/Basic.h>

enum { ROOM = 1 << 14 };

typedef struct todo {
    enum { CALL, COPY, FILL } kind;
    m2_call call;
    void *dst;
    const void *src;
    int64_t bytes;
    int byte;
} todo;

struct m2_event {
    int64_t at;
};

static m2_device *cpu;
static struct {
    todo queue[ROOM];
    int64_t given, done, furthest; /* furthest: most that ever waited */
    m2_status bad;
} lazy;

static m2_status enqueue(todo t)
{
    if (lazy.given - lazy.done == ROOM) return m2_fail(M2_BUG, "the queue is full");
    lazy.queue[lazy.given++ % ROOM] = t;
    if (lazy.given - lazy.done > lazy.furthest) lazy.furthest = lazy.given - lazy.done;
    return M2_OK;
}

static m2_status work(int64_t until)
{
    while (lazy.done < until && lazy.bad == M2_OK) {
        todo *t = &lazy.queue[lazy.done++ % ROOM];
        if (t->kind == CALL) lazy.bad = t->call.op->run(&t->call);
        if (t->kind == COPY) memmove(t->dst, t->src, (size_t)t->bytes);
        if (t->kind == FILL) memset(t->dst, t->byte, (size_t)t->bytes);
    }
    return lazy.bad;
}

static m2_status lazy_call(const m2_call *c)
{
    return enqueue((todo){.kind = CALL, .call = *c});
}

static m2_run_fn lazy_lookup(m2_device *dev, const m2_op *op)
{
    (void)dev, (void)op;
    return lazy_call;
}

static m2_status lazy_copy(m2_device *dev, void *dst, const void *src, int64_t bytes, m2_stream *stream)
{
    (void)dev, (void)stream;
    return enqueue((todo){.kind = COPY, .dst = dst, .src = src, .bytes = bytes});
}

static m2_status lazy_fill(m2_device *dev, void *dst, int byte, int64_t bytes, m2_stream *stream)
{
    (void)dev, (void)stream;
    return enqueue((todo){.kind = FILL, .dst = dst, .byte = byte, .bytes = bytes});
}

static m2_status lazy_sync(m2_device *dev, m2_stream *stream)
{
    (void)stream;
    dev->drains++;
    return work(lazy.given);
}

static m2_status lazy_event_create(m2_device *dev, m2_event **out)
{
    (void)dev;
    *out = calloc(1, sizeof **out);
    return *out ? M2_OK : M2_TRANSIENT;
}

static void lazy_event_destroy(m2_device *dev, m2_event *event)
{
    (void)dev;
    free(event);
}

static m2_status lazy_event_record(m2_device *dev, m2_event *event, m2_stream *stream)
{
    (void)dev, (void)stream;
    event->at = lazy.given;
    return M2_OK;
}

static m2_status lazy_event_sync(m2_device *dev, m2_event *event)
{
    (void)dev;
    return work(event->at);
}

static m2_device make_lazy(m2_device_api *api)
{
    m2_device dev = *cpu;
    *api = *cpu->api;
    api->lookup = lazy_lookup;
    api->copy = lazy_copy;
    api->fill = lazy_fill;
    api->stream_sync = lazy_sync;
    api->event_create = lazy_event_create;
    api->event_destroy = lazy_event_destroy;
    api->event_record = lazy_event_record;
    api->event_sync = lazy_event_sync;
    dev.api = api;
    return dev;
}

static void test_late(void)
{
    static const int micros[] = {1, 2, 3, 9}; /* more than the ring has slots, too */
    m2_device_api api;
    m2_device dev = make_lazy(&api);
    for (size_t k = 0; k < sizeof micros / sizeof *micros; k++) {
        run_result eager, waited, late;
        run_way way = {.plan = {.threads = 1}, .micros = micros[k], .steps = 6, .device = cpu};
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &eager), M2_OK);
        way.device = &dev;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &waited), M2_OK);
        lazy.furthest = 0;
        way.late = 1;
        CU_ASSERT_EQUAL_FATAL(run_program(small_gpt, NULL, &way, &late), M2_OK);
        CU_ASSERT(run_equal(&eager, &waited));
        CU_ASSERT(run_equal(&eager, &late));
        CU_ASSERT_EQUAL(late.drains, 0);
        CU_ASSERT_EQUAL(late.allocations, 0);
        CU_ASSERT(lazy.furthest > 50); /* the host was ahead of the device by a step */
        run_free(&eager);
        run_free(&waited);
        run_free(&late);
    }
}

/* Two posts may be outstanding, one scalar each time; what is no kept scalar is refused. */
static void test_posts(void)
{
    m2_device_api api;
    m2_device dev = make_lazy(&api);
    run_way way = {.plan = {.threads = 1}, .micros = 1, .device = &dev};
    m2_program *p;
    double value[8];
    m2_step s = run_step_values(1);
    CU_ASSERT_EQUAL_FATAL(run_plan(small_gpt, NULL, &way, &p), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_bind(p, &dev), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_program_init_params(p, 11), M2_OK);
    m2_tid loss = m2_program_find(p, "loss"), tokens = m2_program_find(p, "tokens");
    CU_ASSERT_EQUAL(m2_program_take(p, value), M2_BUG);
    CU_ASSERT_EQUAL(m2_program_post(p, &tokens, 1), M2_BUG);
    CU_ASSERT_EQUAL(run_write_inputs(p, 1, 0), M2_OK);
    CU_ASSERT_EQUAL(m2_program_run(p, &s, 0, 1), M2_OK);
    CU_ASSERT_EQUAL(m2_program_post(p, &loss, 1), M2_OK);
    CU_ASSERT_EQUAL(run_write_inputs(p, 2, 0), M2_OK);
    CU_ASSERT_EQUAL(m2_program_run(p, &s, 0, 1), M2_OK);
    CU_ASSERT_EQUAL(m2_program_post(p, &loss, 1), M2_OK);
    CU_ASSERT_EQUAL(m2_program_post(p, &loss, 1), M2_BUG);
    CU_ASSERT_EQUAL(m2_program_take(p, value), M2_OK);
    CU_ASSERT_EQUAL(m2_program_take(p, value + 1), M2_OK);
    CU_ASSERT(value[0] != value[1] && value[1] == run_scalar(p, "loss"));
    m2_program_free(&p);
}

int main(void)
{
    if (m2_device_open("cpu", 1, &cpu) != M2_OK) return 1;
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("program on a late device", NULL, NULL);
    CU_add_test(s, "the host runs ahead: same bytes, no waiting, no allocation", test_late);
    CU_add_test(s, "posts come back in order", test_posts);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    m2_device_close(&cpu);
    return failures != 0;
}
