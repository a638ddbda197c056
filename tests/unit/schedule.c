/* Learning rates: end points, continuity and monotony of every curve; the numbers of an optimizer step. */
#include "runtime/optim.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

static m2_config config(const char *schedule, int64_t steps, double warmup)
{
    m2_config cfg;
    memset(&cfg, 0, sizeof cfg);
    snprintf(cfg.optim_schedule, sizeof cfg.optim_schedule, "%s", schedule);
    cfg.train_steps = steps;
    cfg.optim_warmup = warmup;
    cfg.optim_lr = 6e-4;
    cfg.optim_min_lr = 0.1;
    cfg.optim_cooldown = 0.2;
    return cfg;
}

static m2_schedule make(const char *name, int64_t steps, double warmup)
{
    m2_config cfg = config(name, steps, warmup);
    m2_schedule s;
    CU_ASSERT_EQUAL_FATAL(m2_schedule_make(&cfg, &s), M2_OK);
    return s;
}

static const struct {
    const char *name;
    double last, middle; /* of the peak: at the last step, and half way through the decay */
} curves[] = {{"cosine", 0.1, 0.55}, {"linear", 0.1, 0.55}, {"constant", 1, 1}, {"wsd", 0.1, 1}};

static void test_curves(void)
{
    for (size_t i = 0; i < sizeof curves / sizeof *curves; i++) {
        m2_schedule s = make(curves[i].name, 1010, 10);
        CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 1), 6e-5, 1e-15);
        CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 10), 6e-4, 1e-15);
        CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 510), 6e-4 * curves[i].middle, 1e-12);
        CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 1010), 6e-4 * curves[i].last, 1e-15);
        CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 5000), 6e-4 * curves[i].last, 1e-15);
        for (int64_t t = 11; t <= 1010; t++) { /* never up again, never a jump */
            double before = m2_schedule_lr(&s, t - 1), now = m2_schedule_lr(&s, t);
            CU_ASSERT(now <= before && before - now < 6e-4 * 0.01);
        }
    }
}

static void test_wsd(void)
{
    m2_schedule s = make("wsd", 1000, 0);
    CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 1), 6e-4, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 800), 6e-4, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 900), 6e-4 * 0.55, 1e-12);
    s = make("wsd", 1000, 500); /* the decay is a fraction of all steps, also after a long warmup */
    CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 800), 6e-4, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 900), 6e-4 * 0.55, 1e-12);
}

static void test_warmup(void)
{
    m2_schedule s = make("cosine", 1000, 0.01);
    CU_ASSERT_EQUAL(s.warmup, 10);
    s = make("cosine", 30, 30); /* a run that is all warmup ends at the peak */
    CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 30), 6e-4, 1e-15);
    s = make("cosine", 1, 0.01);
    CU_ASSERT_DOUBLE_EQUAL(m2_schedule_lr(&s, 1), 6e-5, 1e-15);
    m2_config cfg = config("cosine", 100, 101);
    CU_ASSERT_EQUAL(m2_schedule_make(&cfg, &s), M2_USAGE);
    cfg = config("exponential", 100, 0);
    CU_ASSERT_EQUAL(m2_schedule_make(&cfg, &s), M2_USAGE);
}

static void test_step(void)
{
    m2_config cfg = config("constant", 100, 0);
    cfg.train_seed = 7;
    cfg.optim_clip = 1;
    cfg.optim_wd = 0.1;
    m2_schedule s = make("constant", 100, 0);
    m2_step a = m2_optim_step(&cfg, &s, 5), b = m2_optim_step(&cfg, &s, 5);
    CU_ASSERT_EQUAL(memcmp(&a, &b, sizeof a), 0);
    CU_ASSERT(a.seed == 7 && a.step == 5 && a.lr == 6e-4 && a.clip == 1);
    CU_ASSERT_EQUAL(a.group[M2_GROUP_DECAYED].weight_decay, 0.1);
    CU_ASSERT_EQUAL(a.group[M2_GROUP_FILTER].weight_decay, 0);
    CU_ASSERT_EQUAL(a.group[M2_GROUP_FILTER].lr_scale, 1);
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "optim.groups=one"), M2_OK);
    CU_ASSERT_EQUAL(m2_optim_step(&cfg, &s, 5).group[M2_GROUP_POSITION].weight_decay, 0.1);
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "optim.groups=intended"), M2_OK);
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "optim.decay=free"), M2_OK);
    b = m2_optim_step(&cfg, &s, 5); /* learning rates 1e-3 and 1e-5; the decay of a step is lr * 0.1 */
    CU_ASSERT_DOUBLE_EQUAL(b.lr * b.group[M2_GROUP_FILTER].lr_scale, 1e-3, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(b.lr / b.lr_peak * b.group[M2_GROUP_FILTER].weight_decay, 1e-4, 1e-15);
    CU_ASSERT_DOUBLE_EQUAL(b.lr * b.group[M2_GROUP_POSITION].lr_scale, 1e-5, 1e-15);
    CU_ASSERT_EQUAL(b.group[M2_GROUP_POSITION].weight_decay, 0);
}

int main(void)
{
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("schedule", NULL, NULL);
    CU_add_test(suite, "curves", test_curves);
    CU_add_test(suite, "wsd", test_wsd);
    CU_add_test(suite, "warmup", test_warmup);
    CU_add_test(suite, "optimizer step", test_step);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    return failures != 0;
}
