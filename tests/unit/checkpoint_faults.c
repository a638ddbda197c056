/* Saves that die, lose their run or find no room, at every point where m2 may be (kernels/base/fault.h): a valid checkpoint
 * always loads, never a torn one, at most the one being saved is lost, and who was superseded commits nothing. */
#include "tests/made_up_state.h"

#include <signal.h>
#include <sys/wait.h>
#include <time.h>

enum { STEPS = 5, RANKS = 2, KEEP = 2, KILLS = 200, KILLS_BY_CLOCK = 30 };

/* ---- the hook ---------------------------------------------------------------------------------------------------- */
static pthread_mutex_t hook_lock = PTHREAD_MUTEX_INITIALIZER;
static int reached, act_at; /* points so far; the one to act at, 0 = none */
static void (*act)(const char *point);

void m2_fault(const char *point)
{
    pthread_mutex_lock(&hook_lock);
    int now = ++reached == act_at;
    pthread_mutex_unlock(&hook_lock);
    if (now) act(point);
}

static void arm(int at, void (*what)(const char *point))
{
    reached = 0;
    act_at = at;
    act = what;
}

static uint32_t random_number(void)
{
    static uint64_t counter;
    return m2_rng_u32(m2_rng_make_key(3, 4, 5), counter++);
}

/* ---- killed ------------------------------------------------------------------------------------------------------ */
static void die(const char *point)
{
    (void)point;
    kill(getpid(), SIGKILL);
}

/* The process that is killed: step after step, each with other numbers. Tells which are done. */
static void child(int tell, int64_t from)
{
    model *m = malloc(sizeof *m);
    for (int64_t step = from; step <= STEPS; step++) {
        fill(m, (float)step);
        if (save_keeping(m, step, RANKS, KEEP, 0) != M2_OK) _exit(1);
        char done = (char)step;
        if (write(tell, &done, 1) != 1) _exit(1);
    }
    _exit(0);
}

/* Runs the child until it ends or dies; returns the last step it told. delay_us >= 0: it is killed then. */
static int run_child(int64_t from, long delay_us, int *died)
{
    int tell[2], status;
    char done = 0;
    CU_ASSERT_EQUAL_FATAL(pipe(tell), 0);
    pid_t pid = fork();
    if (pid == 0) child(tell[1], from);
    close(tell[1]);
    if (delay_us >= 0) {
        nanosleep(&(struct timespec){.tv_nsec = delay_us * 1000}, NULL);
        kill(pid, SIGKILL);
    }
    waitpid(pid, &status, 0);
    *died = WIFSIGNALED(status);
    CU_ASSERT(*died || WEXITSTATUS(status) == 0);
    for (char c; read(tell[0], &c, 1) == 1;) done = c;
    close(tell[0]);
    return done;
}

/* What a restart sees after a death: the newest checkpoint is the last told or the one after it, whole, with its own numbers.
 * Returns its step. */
static int64_t recovers(int told)
{
    model *m = malloc(sizeof *m), *back = malloc(sizeof *back);
    m2_manifest mf = {0};
    char folder[M2_PATH];
    int none;
    int64_t step = 0;
    m2_status st = m2_checkpoint_find(base, folder, &none);
    if (none) {
        CU_ASSERT_EQUAL(told, 0);
    } else {
        CU_ASSERT_EQUAL_FATAL(st, M2_OK);
        fill(back, 0);
        wipe(back);
        st = load(back, &mf);
        if (st != M2_OK) printf("  after step %d: %s\n", told, m2_message());
        CU_ASSERT_EQUAL(st, M2_OK);
        step = mf.step;
        CU_ASSERT(step == told || step == told + 1);
        fill(m, (float)step);
        CU_ASSERT(same(m, back));
        m2_manifest_free(&mf);
    }
    CU_ASSERT_EQUAL(m2_checkpoint_sweep(base), M2_OK);
    free(m);
    free(back);
    return step;
}

static void test_killed(void)
{
    int died, deaths = 0;
    empty();
    arm(0, die);
    model *m = malloc(sizeof *m);
    for (int64_t step = 1; step <= STEPS; step++) {
        fill(m, (float)step);
        CU_ASSERT_EQUAL(save_keeping(m, step, RANKS, KEEP, 0), M2_OK);
    }
    free(m);
    int points = reached;
    CU_ASSERT(points > 50);
    for (int i = 0; i < KILLS; i++) {
        empty();
        arm(1 + (int)(random_number() % (uint32_t)points), die);
        int64_t step = recovers(run_child(1, -1, &died));
        deaths += died;
        if (i % 10) continue;
        arm(0, die); /* and the next start goes on to the end */
        CU_ASSERT_EQUAL(step < STEPS ? run_child(step + 1, -1, &died) : STEPS, STEPS);
        CU_ASSERT_EQUAL(recovers(STEPS), STEPS);
    }
    printf(" %d deaths at %d points ", deaths, points);
    CU_ASSERT_EQUAL(deaths, KILLS);
}

static void test_killed_by_clock(void)
{
    int died;
    struct timespec begin, end;
    arm(0, die);
    empty();
    clock_gettime(CLOCK_MONOTONIC, &begin);
    run_child(1, -1, &died);
    clock_gettime(CLOCK_MONOTONIC, &end);
    long whole = (end.tv_sec - begin.tv_sec) * 1000000 + (end.tv_nsec - begin.tv_nsec) / 1000;
    for (int i = 0; i < KILLS_BY_CLOCK; i++) {
        empty();
        recovers(run_child(1, (long)(random_number() % (uint32_t)whole) % 900000, &died));
    }
}

/* ---- superseded -------------------------------------------------------------------------------------------------- */
static char run[80];
static char seen[M2_PATH]; /* the newest checkpoint that the new job found, "" = none */
static m2_fence newer;

static void look(char *folder)
{
    int none;
    if (m2_checkpoint_find(base, folder, &none) != M2_OK) folder[0] = 0;
}

/* Another job takes the run, then looks for what there is: as the trainer does. */
static void take_over(const char *point)
{
    (void)point;
    CU_ASSERT_EQUAL(m2_fence_take(run, base, &newer), M2_OK);
    look(seen);
}

static m2_status save_with(const model *m, int64_t step, const m2_fence *fence)
{
    m2_comm *comm;
    CU_ASSERT_EQUAL_FATAL(m2_comm_open_threads(1, &comm), M2_OK);
    m2_save_spec spec = {
        .folder = base, .step = step, .config = "", .tokenizer = "", .keep = KEEP, .fence = *fence};
    m2_status st = m2_checkpoint_save(&spec, &m->state, comm);
    m2_comm_close(&comm);
    return st;
}

/* Whatever the old job was doing when the new one took the run, nothing appears behind the new one's back. */
static void test_superseded(void)
{
    model *m = malloc(sizeof *m);
    m2_fence old;
    fill(m, 1);
    int refused = 0, committed = 0;
    for (int at = 1;; at++) {
        empty();
        arm(0, take_over);
        CU_ASSERT_EQUAL_FATAL(m2_fence_take(run, base, &old), M2_OK);
        for (int64_t step = 1; step <= 3; step++) CU_ASSERT_EQUAL(save_with(m, step, &old), M2_OK);
        arm(at, take_over);
        m2_status st = save_with(m, 4, &old);
        if (reached < at) break; /* it was over before */
        if (st == M2_USAGE) CU_ASSERT(says("taken over by", "saves nothing more"));
        refused += st == M2_USAGE;
        committed += st == M2_OK;
        char now[M2_PATH];
        look(now);
        CU_ASSERT_STRING_EQUAL(now, seen);
        CU_ASSERT_EQUAL(strstr(seen, "step-00000004") != NULL, st == M2_OK);
        CU_ASSERT_EQUAL(save_with(m, 5, &old), M2_USAGE);
        CU_ASSERT_EQUAL(save_with(m, 4 + (st == M2_OK), &newer), M2_OK);
    }
    printf(" %d refused, %d committed before ", refused, committed);
    CU_ASSERT(refused > 5 && committed > 1);
    free(m);
}

/* ---- a folder that cannot be written ----------------------------------------------------------------------------- */
static void test_read_only(void)
{
    model *m = malloc(sizeof *m);
    int status;
    empty();
    arm(0, die);
    fill(m, 1);
    save(m, 1, 1);
    CU_ASSERT_EQUAL(chmod(base, 0555), 0);
    pid_t pid = fork();
    if (pid == 0) {
        if (geteuid() == 0 && seteuid(65534)) _exit(2);
        m2_status st = save_keeping(m, 2, 1, 1, 0);
        _exit(st == M2_IO && strstr(m2_message(), "step-00000002.tmp failed: Permission denied") ? 0 : 1);
    }
    waitpid(pid, &status, 0);
    chmod(base, 0777);
    CU_ASSERT_EQUAL(WEXITSTATUS(status), 0);
    m2_manifest mf;
    CU_ASSERT_EQUAL(load(m, &mf), M2_OK);
    CU_ASSERT_EQUAL(mf.step, 1);
    m2_manifest_free(&mf);
    free(m);
}

int main(void)
{
    snprintf(run, sizeof run, "/tmp/m2-faults-%ld", (long)getpid());
    snprintf(base, sizeof base, "%.40s/checkpoints", run);
    mkdir(run, 0777);
    mkdir(base, 0777);
    if (m2_device_open_cpu(1, &cpu) != M2_OK || CU_initialize_registry() != CUE_SUCCESS) return 1;
    CU_pSuite suite = CU_add_suite("checkpoint_faults", NULL, NULL);
    CU_add_test(suite, "killed at any point", test_killed);
    CU_add_test(suite, "killed at any time", test_killed_by_clock);
    CU_add_test(suite, "superseded at any point", test_superseded);
    CU_add_test(suite, "a read-only folder", test_read_only);
    CU_basic_set_mode(CU_BRM_VERBOSE);
    CU_basic_run_tests();
    unsigned failures = CU_get_number_of_failures();
    CU_cleanup_registry();
    empty();
    rmdir(base);
    char fence[96];
    snprintf(fence, sizeof fence, "%s/fence", run);
    (void)m2i_remove_folder(fence);
    rmdir(run);
    m2_device_close(&cpu);
    return failures != 0;
}
