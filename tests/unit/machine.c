/* Machine descriptions: what is written is read back, what is wrong is named; predictions: laws that hold on any machine. */
#include "runtime/search.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static char path[64];

static m2_status read_text(const char *text, m2_machine *m)
{
    FILE *f = fopen(path, "w");
    if (!f) return m2_fail(M2_IO, "no temporary file");
    fputs(text, f);
    fclose(f);
    return m2_machine_read(path, m);
}

static int near(double a, double b)
{
    return fabs(a - b) <= 1e-9 * (fabs(a) + fabs(b));
}

/* ---- files ------------------------------------------------------------------------------------------------------- */
static void test_round_trip(void)
{
    static m2_machine m, n;
    CU_ASSERT_EQUAL_FATAL(
        read_text("name: \"a \\\"b\\\"\"\ndevice: cuda\nmemory_gib: 141\nranks_per_node: 8\n"
                  "gemm_gflops: 670000\ncopy_gbs: 3900\ncall_us: 3\n"
                  "ops: {linear: 0.5, other: 0.75}\nrates: {longconv@1024: 0.25, longconv@65536: 0.125}\n"
                  "node: {8: {all_reduce: {latency_us: 20, gbs: 350}}}\n"
                  "between:\n  2: {all_to_all: {latency_us: 7, gbs: 50, us: {100: 8, 200: 16}}}\n"
                  "  64: {all_reduce: {latency_us: 90, gbs: 48}}\n",
                  &m),
        M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_machine_write(&m, path), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_machine_read(path, &n), M2_OK);
    CU_ASSERT_STRING_EQUAL(n.name, "a \"b\"");
    CU_ASSERT_STRING_EQUAL(n.transport, "nccl");
    CU_ASSERT(near(n.memory, 141.0 * 1024 * 1024 * 1024) && near(n.gemm, 6.7e14) && near(n.call, 3e-6));
    CU_ASSERT(n.n_ops == 4 && near(n.op[3].rate, 0.125e9) && n.op[1].rate <= 0 && near(n.op[1].share, 0.75));
    CU_ASSERT_EQUAL(n.between.n, 2);
    CU_ASSERT_EQUAL(n.between.size[1].ranks, 64);
    CU_ASSERT(!memcmp(&m.node, &n.node, sizeof m.node) || near(n.node.size[0].line[0].latency, 20e-6));
    const m2_line *l = &n.between.size[0].line[M2_VERB_ALL_TO_ALL];
    CU_ASSERT_EQUAL(l->n, 2);
    CU_ASSERT(near(m2_line_seconds(l, 150), 12e-6)); /* between points */
    CU_ASSERT(near(m2_line_seconds(l, 10), 8e-6));   /* not below the first */
    CU_ASSERT(near(m2_line_seconds(l, 400), 32e-6)); /* on at the last rate */
    CU_ASSERT_EQUAL(m2_machine_read_or_new("/nonexistent/machine.yaml", &n), M2_OK);
    CU_ASSERT_EQUAL(n.n_ops, 0);
}

static void test_refusals(void)
{
    static m2_machine m;
    static const char *const bad[][2] = {
        {"device: cpu\nmemory_gb: 3\n", "memory_gib"},
        {"device: tpu\n", "expected cpu or cuda"},
        {"device: cpu\ngemm_gflops: fast\n", "expected a number"},
        {"device: cpu\nnode: {1: {all_reduce: {gbs: 1}}}\n", "has no 'node.1.all_reduce.gbs'"},
        {"device: cpu\nnode: {2: {all_reduce: {gbs: 1, us: {20: 1, 10: 2}}}}\n", "growing bytes"},
        {"device: cpu\nops: [1, 2]\n", "expected one value or a map"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CU_ASSERT_EQUAL(read_text(bad[i][0], &m), M2_USAGE);
        if (!strstr(m2_message(), bad[i][1])) fprintf(stderr, "%s\n", m2_message());
        CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), bad[i][1]));
    }
    CU_ASSERT_EQUAL(read_text("device: cpu\n", &m), M2_OK);
    CU_ASSERT_EQUAL(m2_machine_check(&m, 0), M2_USAGE);
    CU_ASSERT_EQUAL(read_text("device: cpu\ngemm_gflops: 1\ncopy_gbs: 1\n", &m), M2_OK);
    CU_ASSERT_EQUAL(m2_machine_check(&m, 0), M2_OK);
    CU_ASSERT_EQUAL(m2_machine_check(&m, 1), M2_USAGE);
}

/* ---- rates ------------------------------------------------------------------------------------------------------- */
static void test_line(void)
{
    double bytes[5], seconds[5];
    for (int i = 0; i < 5; i++) bytes[i] = pow(8, i + 2), seconds[i] = 3e-5 + bytes[i] / 2e9;
    m2_line l = m2_line_fit(bytes, seconds, 5);
    CU_ASSERT(fabs(l.latency - 3e-5) < 1e-9 && fabs(l.bandwidth - 2e9) < 1e3);
    for (int i = 0; i < 5; i++) CU_ASSERT(near(m2_line_seconds(&l, bytes[i]), seconds[i]));
}

static void test_ops(void)
{
    static m2_machine m;
    m2_cost flops = {100, 1}, bytes = {1, 200};
    CU_ASSERT_EQUAL_FATAL(
        read_text("device: cpu\ngemm_gflops: 1e-9\ncopy_gbs: 1e-9\ncall_us: 1e6\nthreads: 2\ncores: 4\n"
                  "ops: {linear: 0.5, other: 0.1}\nrates: {longconv@1024: 2e-9, longconv@65536: 1e-9}\n",
                  &m),
        M2_OK);
    CU_ASSERT(near(m2_machine_call_seconds(&m, &(m2_work){"linear", 9, 700, flops}, 1), 1 + 200));
    CU_ASSERT(near(m2_machine_call_seconds(&m, &(m2_work){"linear", 9, 700, bytes}, 1), 1 + 400));
    CU_ASSERT(near(m2_machine_call_seconds(&m, &(m2_work){"linear", 9, 700, bytes}, 4),
                   1 + 800)); /* 8 threads on 4 cores */
    CU_ASSERT(near(m2_machine_call_seconds(&m, &(m2_work){"linear_grad", 9, 700, flops}, 1), 1 + 1000));
    CU_ASSERT(near(m2_machine_call_seconds(&m, &(m2_work){"longconv", 2048, 700, flops}, 1), 1 + 350));
    CU_ASSERT(near(m2_machine_call_seconds(&m, &(m2_work){"longconv", 1 << 20, 700, flops}, 1), 1 + 700));
}

static void test_groups(void)
{
    static m2_machine m;
    m2_group g = m2_group_place(16, 1, 8), apart = m2_group_place(4, 8, 8), pairs = m2_group_place(8, 4, 8);
    CU_ASSERT(g.on_node == 8 && g.nodes == 2);
    CU_ASSERT(apart.on_node == 1 && apart.nodes == 4);
    CU_ASSERT(pairs.on_node == 2 && pairs.nodes == 4);
    CU_ASSERT_EQUAL_FATAL(read_text("device: cuda\nnode: {8: {all_reduce: {gbs: 100e-9}}}\n"
                                    "between: {8: {all_reduce: {gbs: 10e-9}}}\n",
                                    &m),
                          M2_OK);
    double inside = m2_machine_verb_seconds(&m, M2_VERB_ALL_REDUCE, &(m2_group){8, 8, 1}, 700);
    CU_ASSERT(near(inside, 7));
    /* 16 ranks send 2 * 15/16 n each: 2 * 7/8 n inside, 2 * 1/2 * n/8 between, at once */
    double n = 800, both = m2_machine_verb_seconds(&m, M2_VERB_ALL_REDUCE, &g, 2 * n * 15 / 16);
    CU_ASSERT(near(both, fmax(2 * n * 7 / 8 / 100, n / 8 / 10)));
    /* an all_to_all sends half of it out of the node */
    double all = m2_machine_verb_seconds(&m, M2_VERB_ALL_TO_ALL, &g, n * 15 / 16);
    CU_ASSERT(near(all, n * 8 / 16 / 10));
}

/* ---- steps ------------------------------------------------------------------------------------------------------- */
static void predict(const char *machine, const char *mesh, int ranks, m2_planned *p, m2_prediction *t)
{
    static m2_machine m;
    m2_config cfg;
    char word[64];
    m2_config_defaults(&cfg);
    const char *const words[] = {"model.width=32", "model.layers=2", "model.length=64", "train.batch=8",
                                 "train.micro=1"};
    for (int i = 0; i < 5; i++) CU_ASSERT_EQUAL_FATAL(m2_config_set(&cfg, words[i]), M2_OK);
    snprintf(word, sizeof word, "run.mesh=%s", mesh);
    CU_ASSERT_EQUAL_FATAL(m2_config_set(&cfg, word), M2_OK);
    CU_ASSERT_EQUAL_FATAL(read_text(machine, &m), M2_OK);
    m2_planner_spec spec = {.ranks = ranks, .local_size = 1, .machine = &m};
    CU_ASSERT_EQUAL_FATAL(m2_planned_make(&cfg, &spec, p), M2_OK);
    CU_ASSERT_EQUAL_FATAL(m2_predict(p, &m, t), M2_OK);
}

/* Where calls cost nothing and a byte a second, collectives take as many seconds as the plan says that rank 0 sends. */
static void test_bytes_are_seconds(void)
{
    static const char machine[] = "device: cpu\ngemm_gflops: 1e30\ncopy_gbs: 1e30\n"
                                  "between: {2: {all_reduce: {latency_us: 0, gbs: 1e-9}}}\n";
    static const char *const mesh[] = {"data=4", "data=2,seq=2"};
    for (int i = 0; i < 2; i++) {
        m2_planned p;
        m2_prediction t;
        double sent = 0, halo = 0;
        predict(machine, mesh[i], 4, &p, &t);
        for (int k = 0; k < p.n_traffic; k++)
            *(strncmp(p.traffic[k].verb, "halo", 4) ? &sent : &halo) += (double)p.traffic[k].bytes;
        /* rank 0 sends a halo and no halo_grad, the last rank the other way round: both are waited for */
        CU_ASSERT(near(t.exchange_all + t.reduce_all, sent + 2 * halo));
        CU_ASSERT(t.step - t.agreement <= (sent + 2 * halo) * 1.000001);
        CU_ASSERT(t.compute < 1e-6);
        m2_planned_free(&p);
    }
}

/* Where the reductions run beside the rest, the step takes no less than either and no more than both. */
static void test_overlap(void)
{
    static const char machine[] = "device: cuda\ntransport: nccl\ngemm_gflops: 0.1\ncopy_gbs: 0.1\n"
                                  "between: {2: {all_reduce: {gbs: 2e-3}}}\n";
    m2_planned p;
    m2_prediction t;
    predict(machine, "", 2, &p, &t);
    CU_ASSERT(t.step >= t.compute && t.step >= t.reduce_all);
    CU_ASSERT(t.reduce < t.reduce_all);
    CU_ASSERT(near(t.step, t.compute + t.exchange + t.reduce + t.agreement));
    m2_planned_free(&p);
    predict(machine, "seq=2", 2, &p, &t);
    CU_ASSERT(t.step >= t.compute && t.step >= t.exchange_all && t.exchange <= t.exchange_all * (1 + 1e-9));
    CU_ASSERT(near(t.step, t.compute + t.exchange + t.reduce + t.agreement));
    m2_planned_free(&p);
}

/* ---- search ------------------------------------------------------------------------------------------------------ */
static m2_status search(const char *machine, m2_machine *m, m2_search *s)
{
    m2_config cfg;
    m2_config_defaults(&cfg);
    const char *const words[] = {"model.width=32", "model.layers=1", "model.length=256", "train.batch=4"};
    for (int i = 0; i < 4; i++) CU_ASSERT_EQUAL_FATAL(m2_config_set(&cfg, words[i]), M2_OK);
    CU_ASSERT_EQUAL_FATAL(read_text(machine, m), M2_OK);
    return m2_search_make(&cfg, &(m2_planner_spec){.ranks = 4, .local_size = 1, .machine = m}, 0, s);
}

/* Every mesh is tried; what is chosen fits and nothing that fits is faster; with less memory another one may be. */
static void test_search(void)
{
    static m2_machine m;
    m2_search s;
    char machine[256];
    double gib = 1;
    static const char *const meshes[] = {"data=4,seq=1", "data=2,seq=2", "data=1,seq=4"};
    for (int round = 0; round < 3; round++) {
        snprintf(machine, sizeof machine,
                 "device: cuda\nmemory_gib: %.17g\ngemm_gflops: 1\ncopy_gbs: 1\n"
                 "between: {4: {all_reduce: {latency_us: 10, gbs: 1e-3}}}\n",
                 gib);
        m2_status st = search(machine, &m, &s);
        CU_ASSERT_EQUAL(st, round < 2 ? M2_OK : M2_USAGE);
        int64_t least = INT64_MAX;
        for (int i = 0; i < s.n; i++) {
            if (s.row[i].fits) CU_ASSERT(s.row[0].fits && s.row[0].step <= s.row[i].step);
            if (!*s.row[i].why_not && s.row[i].bytes < least) least = s.row[i].bytes;
        }
        for (int k = 0; k < 3; k++) {
            int found = 0;
            for (int i = 0; i < s.n; i++) found += !strcmp(s.row[i].mesh, meshes[k]);
            CU_ASSERT(found > 0);
        }
        /* of a GPU nine tenths may be planned: first room for the smallest way only, then for none */
        gib = (double)least / 0.9 / (1 << 30) * (round ? 0.5 : 1.0001);
        m2_search_free(&s);
    }
}

int main(void)
{
    snprintf(path, sizeof path, "/tmp/m2-machine-%ld.yaml", (long)getpid());
    CU_initialize_registry();
    CU_pSuite s = CU_add_suite("machine", NULL, NULL);
    CU_add_test(s, "round trip", test_round_trip);
    CU_add_test(s, "refusals", test_refusals);
    CU_add_test(s, "line", test_line);
    CU_add_test(s, "ops", test_ops);
    CU_add_test(s, "groups", test_groups);
    CU_add_test(s, "bytes are seconds", test_bytes_are_seconds);
    CU_add_test(s, "overlap", test_overlap);
    CU_add_test(s, "search", test_search);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    int failures = (int)CU_get_number_of_failures();
    CU_cleanup_registry();
    unlink(path);
    return failures != 0;
}
