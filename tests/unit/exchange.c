/* Both exchanges and the halo over 1 to 8 ranks as threads. */
#include "tests/unit/exchange_laws.h"
#include "tests/unit/on_ranks.h"

static const char *laws_body(m2_comm *c, int unused)
{
    (void)unused;
    m2_device *cpu = NULL;
    WORKS(m2_device_open("cpu", 1, &cpu));
    const char *broke = exchange_laws(c, cpu);
    m2_device_close(&cpu);
    return broke;
}

static void test_laws(void)
{
    static const int sizes[] = {1, 2, 3, 4, 7, 8};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) on_ranks(sizes[i], laws_body, 0);
}

/* The parts tile the channels; a part's filters are those its channels use; a uniform part is right for every channel. */
static void test_parts(void)
{
    int good = 1, uniform = 0, gathered = 0;
    for (int64_t c = 1; c <= 24; c++)
        for (int64_t f = 1; f <= c; f++)
            for (int ranks = 1; ranks <= 8; ranks++) {
                if (c % f || c % ranks) continue;
                for (int share = M2_SHARE_HEAD; share <= M2_SHARE_INDEX; share++)
                    for (int r = 0; r < ranks; r++) {
                        m2_channel_part p;
                        good &= m2_exchange_part(c, f, share, ranks, r, &p) == M2_OK;
                        good &= p.channels.at == r * (c / ranks) && p.channels.count == c / ranks;
                        good &= p.filters.at >= 0 && p.filters.at + p.filters.count <= f;
                        good &= !p.uniform || p.channels.count % p.filters.count == 0;
                        for (int64_t i = 0; i < p.channels.count; i++) {
                            int64_t want = m2_filter_of(c, f, share, p.channels.at + i) - p.filters.at;
                            good &= want >= 0 && want < p.filters.count;
                            if (p.uniform)
                                good &= m2_filter_of(p.channels.count, p.filters.count, p.share, i) == want;
                        }
                        *(p.uniform ? &uniform : &gathered) += 1;
                    }
            }
    CU_ASSERT(good);
    CU_ASSERT(uniform > gathered && gathered > 0);
    m2_channel_part p;
    CU_ASSERT_EQUAL(m2_exchange_part(6, 6, M2_SHARE_HEAD, 4, 0, &p), M2_USAGE);
}

/* Columns tile the tokens, and finding a token is the inverse of placing it. */
static void test_columns(void)
{
    int good = 1, made = 0;
    for (int64_t length = 1; length <= 200; length++)
        for (int ranks = 1; ranks <= 8; ranks++)
            for (int64_t least = 0; least <= 6; least += 3) {
                m2_columns c;
                if (length % ranks || m2_columns_choose(length, ranks, least, &c) != M2_OK) continue;
                made++;
                good &= c.used * c.width == length && c.own * ranks == c.width && c.own >= least;
                good &= c.rows % ranks == 0 && c.rows >= c.used && c.rows < c.used + ranks;
                for (int64_t t = 0; t < length; t++) {
                    int owners = 0;
                    for (int r = 0; r < ranks; r++) {
                        m2_runs own = m2_columns_runs(&c, length, ranks, r);
                        int64_t i = m2_runs_find(&own, t);
                        owners += i >= 0;
                        good &= i < 0 || (i < own.count && m2_runs_at(&own, i) == t);
                    }
                    good &= owners == 1;
                }
            }
    CU_ASSERT(good);
    CU_ASSERT(made > 800);
}

static void choose(const char *want, int64_t length, int64_t channels, int64_t taps, int ranks, m2_status st,
                   m2_exchange_kind kind, const char *why)
{
    m2_exchange_ask ask = {want, length, channels, channels, taps, ranks, M2_F32, 0, 0};
    m2_exchange_choice c;
    CU_ASSERT_EQUAL(m2_exchange_choose(&ask, &c), st);
    CU_ASSERT(st != M2_OK || c.kind == kind);
    CU_ASSERT(st != M2_OK || (c.columns.width > 0) == (kind == M2_EXCHANGE_MONARCH));
    const char *said = st == M2_OK ? c.why : m2_message();
    if (!strstr(said, why)) printf("\n  '%s' lacks '%s'", said, why);
    CU_ASSERT(strstr(said, why) != NULL);
}

static void test_choice(void)
{
    choose("auto", 64, 8, 3, 4, M2_OK, M2_EXCHANGE_CHANNEL, "fewer bytes");
    choose("auto", 63, 8, 3, 3, M2_OK, M2_EXCHANGE_MONARCH, "3 ranks do not divide the channels");
    choose("monarch", 64, 8, 3, 4, M2_OK, M2_EXCHANGE_MONARCH, "as run.exchange says");
    choose("channel", 63, 8, 3, 3, M2_USAGE, 0, "3 ranks do not divide the channels");
    choose("monarch", 64, 8, 20, 4, M2_USAGE, 0, "at least 19 columns");
    choose("auto", 64, 7, 20, 4, M2_USAGE, 0, "no exchange fits");
}

/* Shapes that cannot be: one sentence each. */
static void test_shapes(void)
{
    m2_attrs four = {.i[0] = 4};
    m2_desc in[M2_MAX_IN], out[M2_MAX_OUT];
    in[0] = m2_desc_make(M2_F32, "CBL", (int64_t)6, (int64_t)2, (int64_t)2);
    CU_ASSERT_EQUAL(m2_op_to_channels.shape(&four, in, out), M2_USAGE); /* 6 channels, 4 ranks */
    CU_ASSERT(strstr(m2_message(), "C 6") && strstr(m2_message(), "4 ranks"));
    CU_ASSERT_EQUAL(m2_op_to_sequence.shape(&four, in, out), M2_USAGE);
    CU_ASSERT_EQUAL(m2_op_halo.shape(&four, in, out), M2_USAGE); /* 3 tokens wanted, 2 there */
    m2_attrs rows = {.i = {4, 3}};
    CU_ASSERT_EQUAL(m2_op_rows.shape(&rows, in, out), M2_USAGE);
}

int main(void)
{
    return run_suite("exchange", (CU_TestInfo[]){{"parts of the channels", test_parts},
                                                 {"columns of the tokens", test_columns},
                                                 {"which exchange", test_choice},
                                                 {"shapes", test_shapes},
                                                 {"laws over threads", test_laws},
                                                 CU_TEST_INFO_NULL});
}
