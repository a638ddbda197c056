/* The sampler: a permutation for every size, another one in every epoch, and mixtures that keep their weights. */
#include "data/sampler.h"
#include "kernels/base/rng.h"
#include "runtime/batch.h"

#include <CUnit/Basic.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

static void check_bijection(int64_t n, uint64_t key)
{
    unsigned char *seen = calloc((size_t)n, 1);
    for (int64_t i = 0; i < n; i++) {
        int64_t x = m2_sampler_permute(i, n, key);
        int fresh = x >= 0 && x < n && !seen[x];
        CU_ASSERT_TRUE_FATAL(fresh);
        if (fresh) seen[x] = 1;
    }
    free(seen);
}

static void test_bijection(void)
{
    for (int64_t n = 1; n <= 300; n++)
        for (uint64_t key = 0; key < 5; key++) check_bijection(n, key);
    check_bijection(65536, 9);
    check_bijection(65537, 9);
    check_bijection(1000003, 1);
    for (int64_t i = 0; i < 1000; i++) { /* sizes that no test can walk through */
        int64_t n = (int64_t)1 << 50, x = m2_sampler_permute(i, n + 1, 3);
        CU_ASSERT(x >= 0 && x <= n);
    }
}

/* It mixes: no bias of where items go (chi square over 16 x 16 cells), epochs and seeds differ. */
static void test_mixing(void)
{
    enum { N = 16 * 1024, CELLS = 16 };
    for (uint64_t seed = 0; seed < 4; seed++) {
        double cells[CELLS][CELLS] = {{0}}, chi = 0, expected = (double)N / (CELLS * CELLS);
        int64_t same = 0, stays = 0;
        for (int64_t p = 0; p < N; p++) {
            int64_t a = m2_sampler_item(p, N, seed, 1), b = m2_sampler_item(p + N, N, seed, 1);
            int64_t c = m2_sampler_item(p, N, seed + 1, 1);
            cells[p * CELLS / N][a * CELLS / N]++;
            same += (a == b) + (a == c);
            stays += a == p;
        }
        for (int i = 0; i < CELLS; i++)
            for (int j = 0; j < CELLS; j++)
                chi += (cells[i][j] - expected) * (cells[i][j] - expected) / expected;
        CU_ASSERT(chi > 130 && chi < 350); /* 225 degrees of freedom: 5 sigma around 225 */
        CU_ASSERT(same < 20 && stays < 12);
    }
    for (int64_t p = 0; p < 50; p++) CU_ASSERT_EQUAL(m2_sampler_item(p, 7, 1, 0), p % 7);
}

static void test_mixture(void)
{
    static const int64_t items[3] = {1000, 333, 77777};
    static const double weights[3] = {0.25, 0.15, 1.6};
    enum { N = 40 * M2_MIXTURE_BLOCK };
    m2_mixture m;
    CU_ASSERT_EQUAL_FATAL(m2_mixture_make(3, items, weights, 5, 1, &m), M2_OK);
    int64_t drawn[3] = {0}, most[3] = {0}, least[3];
    int *visits[3];
    for (int s = 0; s < 3; s++) visits[s] = calloc((size_t)items[s], sizeof(int));
    for (int64_t p = 0; p < N; p++) {
        int s;
        int64_t sequence;
        m2_mixture_item(&m, p, &s, &sequence);
        CU_ASSERT_FATAL(s >= 0 && s < 3 && sequence >= 0 && sequence < items[s]);
        visits[s][sequence]++;
        drawn[s]++;
        if (p > 1000 && p % 1000 == 0)
            for (int k = 0; k < 3; k++) CU_ASSERT(fabs((double)drawn[k] / (double)p - weights[k] / 2) < 0.05);
    }
    for (int s = 0; s < 3;
         s++) { /* weights hold, and a store's epochs are whole: visits differ by 1 at most */
        CU_ASSERT(fabs((double)drawn[s] / N - weights[s] / 2) < 0.005 * weights[s] / 2);
        least[s] = visits[s][0];
        for (int64_t i = 0; i < items[s]; i++) {
            most[s] = visits[s][i] > most[s] ? visits[s][i] : most[s];
            least[s] = visits[s][i] < least[s] ? visits[s][i] : least[s];
        }
        CU_ASSERT(most[s] - least[s] <= 1 && most[s] == (drawn[s] + items[s] - 1) / items[s]);
        free(visits[s]);
    }
    CU_ASSERT_EQUAL(m2_mixture_make(2, items, (double[]){1, 0}, 0, 1, &m), M2_USAGE);
    CU_ASSERT_EQUAL(m2_mixture_make(2, (int64_t[]){1, 0}, weights, 0, 1, &m), M2_DATA);
    CU_ASSERT_EQUAL_FATAL(m2_mixture_make(2, items, (double[]){1, 1e-9}, 0, 1, &m), M2_OK);
    CU_ASSERT_EQUAL(m.first[1], M2_MIXTURE_BLOCK - 1); /* even the smallest is heard */
}

/* For many mixtures: every epoch of every store visits each of its sequences exactly once, and in an order of its own. */
static void test_mixture_epochs(void)
{
    for (uint64_t seed = 0; seed < 12; seed++) {
        int stores = 1 + (int)(seed % 5);
        int64_t items[5], drawn[5] = {0};
        double weights[5], sum = 0;
        unsigned *epoch[5]; /* of each sequence: how often it was visited */
        for (int s = 0; s < stores; s++) {
            items[s] = 1 + (int64_t)(m2_rng_mix(seed * 10 + (uint64_t)s) % 700);
            sum += weights[s] = 1 + (double)(m2_rng_mix(seed * 77 + (uint64_t)s) % 90);
            epoch[s] = calloc((size_t)items[s], sizeof *epoch[s]);
        }
        m2_mixture m;
        CU_ASSERT_EQUAL_FATAL(m2_mixture_make(stores, items, weights, seed, 1, &m), M2_OK);
        int64_t bad = 0, n = 10 * M2_MIXTURE_BLOCK;
        for (int64_t p = 0; p < n; p++) {
            int s;
            int64_t sequence;
            m2_mixture_item(&m, p, &s, &sequence);
            if (sequence < 0 || sequence >= items[s])
                bad++;
            else
                bad += epoch[s][sequence]++ !=
                       drawn[s]++ / items[s]; /* in epoch e it was visited e times before */
        }
        CU_ASSERT_EQUAL(bad, 0);
        for (int s = 0; s < stores; s++) {
            CU_ASSERT(fabs((double)drawn[s] / (double)n - weights[s] / sum) <= 0.005);
            free(epoch[s]);
        }
    }
}

/* Runs of 1, 2, 3, 8 ranks that go on with another number of ranks at step CHANGE: nothing repeats, nothing is skipped, and
 * what comes is what one rank sees. */
static void test_rank_changes(void)
{
    enum { BATCH = 24, STEPS = 40, CHANGE = 23 };
    static const int ranks[] = {1, 2, 3, 8};
    m2_mixture m;
    CU_ASSERT_EQUAL_FATAL(m2_mixture_make(2, (int64_t[]){500, 460}, (double[]){2, 1}, 3, 1, &m), M2_OK);
    for (int pair = 0; pair < 16; pair++) {
        int visits[2][500] = {{0}}, most = 0, in_order = 1;
        for (int half = 0; half < 2; half++) {
            int n = ranks[half ? pair / 4 : pair % 4];
            for (int r = 0; r < n; r++) {
                m2_batch b;
                CU_ASSERT_EQUAL_FATAL(m2_batch_cut(BATCH, r % 2 ? 1 : 0, r, n, &b), M2_OK);
                b.start = half ? CHANGE * BATCH : 0;
                for (int64_t i = 0; i < b.micros * (half ? STEPS - CHANGE : CHANGE); i++)
                    for (int64_t k = 0; k < b.micro; k++) {
                        int s;
                        int64_t sequence, p = m2_batch_at(&b, i) + k;
                        m2_mixture_item(&m, p, &s, &sequence);
                        visits[s][sequence]++;
                        in_order &= half ? p >= CHANGE * BATCH && p < STEPS * BATCH : p < CHANGE * BATCH;
                    }
            }
        }
        int sum = 0, of_second = 0;
        for (int i = 0; i < 500; i++) {
            sum += visits[0][i] + visits[1][i];
            of_second += visits[1][i];
            most = visits[0][i] > most ? visits[0][i] : most;
            CU_ASSERT(visits[1][i] <= 1);
        }
        CU_ASSERT(in_order && sum == BATCH * STEPS && most == 2 && abs(of_second - BATCH * STEPS / 3) <= 1);
    }
}

int main(void)
{
    CU_initialize_registry();
    CU_pSuite suite = CU_add_suite("sampler", NULL, NULL);
    CU_ADD_TEST(suite, test_bijection);
    CU_ADD_TEST(suite, test_mixing);
    CU_ADD_TEST(suite, test_mixture);
    CU_ADD_TEST(suite, test_mixture_epochs);
    CU_ADD_TEST(suite, test_rank_changes);
    CU_basic_run_tests();
    int failed = CU_get_number_of_failures() != 0;
    CU_cleanup_registry();
    return failed;
}
