/* Run folders: names that find their run again, a lock that one process holds and that dies with it, the config. */
#include "runtime/rundir.h"

#include <CUnit/Basic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

static char base[64];

static void name_of(m2_config *cfg, const char *change, char out[256])
{
    m2_config_defaults(cfg);
    if (change) CU_ASSERT_EQUAL(m2_config_set(cfg, change), M2_OK);
    m2_rundir_default(cfg, "configs/gpt/tiny.yaml", out, 256);
}

static void test_names(void)
{
    m2_config cfg;
    char plain[256], again[256], other[256];
    name_of(&cfg, NULL, plain);
    CU_ASSERT_EQUAL(strncmp(plain, "runs/gpt-tiny-", 14), 0);
    name_of(&cfg, "train.log_every=7", again); /* may differ when a run is resumed */
    CU_ASSERT_STRING_EQUAL(plain, again);
    static const char *const changes[] = {"model.width=512", "optim.lr=0.1", "optim.schedule=linear",
                                          "data.train=x.h5"};
    for (int i = 0; i < 4; i++) {
        name_of(&cfg, changes[i], other);
        CU_ASSERT_STRING_NOT_EQUAL(plain, other);
    }
}

static m2_status take(m2_rundir *dir)
{
    CU_ASSERT_EQUAL(m2_rundir_paths(base, dir), M2_OK);
    return m2_rundir_open(dir);
}

/* A child that holds the lock until it is killed. */
static pid_t holder(void)
{
    int ready[2];
    char byte;
    CU_ASSERT_EQUAL_FATAL(pipe(ready), 0);
    pid_t pid = fork();
    if (pid == 0) {
        m2_rundir dir;
        if (take(&dir) == M2_OK && write(ready[1], "x", 1) == 1)
            for (;;) pause();
        _exit(1);
    }
    CU_ASSERT_EQUAL(read(ready[0], &byte, 1), 1);
    close(ready[0]);
    close(ready[1]);
    return pid;
}

static void test_lock(void)
{
    m2_rundir dir;
    char owner[64];
    pid_t pid = holder();
    CU_ASSERT_EQUAL(take(&dir), M2_USAGE);
    snprintf(owner, sizeof owner, "process %ld on", (long)pid);
    CU_ASSERT_PTR_NOT_NULL(strstr(m2_message(), owner));
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    CU_ASSERT_EQUAL(take(&dir), M2_OK); /* a dead one holds nothing */
    m2_rundir_close(&dir);
    pid = holder();
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
}

static void test_config(void)
{
    m2_rundir dir;
    m2_config cfg, back;
    char path[128], *text = NULL, *again = NULL;
    m2_config_defaults(&cfg);
    CU_ASSERT_EQUAL(m2_config_set(&cfg, "optim.lr=0.00123456789"), M2_OK);
    CU_ASSERT_EQUAL_FATAL(take(&dir), M2_OK);
    CU_ASSERT_EQUAL(m2_rundir_write_config(&dir, &cfg), M2_OK);
    m2_rundir_close(&dir);
    snprintf(path, sizeof path, "%s/config.yaml", base);
    m2_config_defaults(&back);
    CU_ASSERT_EQUAL(m2_config_load(&back, path), M2_OK);
    CU_ASSERT_EQUAL(m2_config_text(&cfg, &text), M2_OK);
    CU_ASSERT_EQUAL(m2_config_text(&back, &again), M2_OK);
    CU_ASSERT_STRING_EQUAL(text, again);
    free(text);
    free(again);
}

static void test_refusals(void)
{
    m2_rundir dir;
    char path[128], *longest = calloc(1, M2_PATH);
    snprintf(path, sizeof path, "%s/config.yaml", base);
    CU_ASSERT_EQUAL(m2_rundir_paths(path, &dir), M2_OK);
    CU_ASSERT_EQUAL(m2_rundir_open(&dir), M2_IO);
    memset(longest, 'a', M2_PATH - 10);
    CU_ASSERT_EQUAL(m2_rundir_paths(longest, &dir), M2_USAGE);
    free(longest);
}

int main(void)
{
    snprintf(base, sizeof base, "/tmp/m2-rundir-%ld/inner", (long)getpid());
    if (CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("rundir", NULL, NULL);
    CU_add_test(suite, "names", test_names);
    CU_add_test(suite, "lock", test_lock);
    CU_add_test(suite, "config", test_config);
    CU_add_test(suite, "refusals", test_refusals);
    CU_basic_set_mode(CU_BRM_NORMAL);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    static const char *const made[] = {"lock", "config.yaml", "checkpoints", "."};
    for (int i = 0; i < 4; i++) {
        char path[128];
        snprintf(path, sizeof path, "%s/%s", base, made[i]);
        if (i == 3) snprintf(path, sizeof path, "%s", base);
        remove(path);
    }
    *strrchr(base, '/') = 0;
    remove(base);
    return failures != 0;
}
