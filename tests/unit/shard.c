/* The partition table: pieces tile, owners and pieces agree, ranges are found whole; and three stages of ZeRO over it, with
 * the real optimizer on ranks as threads, that agree to the bit. */
#include "kernels/ops.h"
#include "parallel/shard.h"
#include "tests/unit/call_op.h"
#include "tests/unit/on_ranks.h"

/* ---- the table --------------------------------------------------------------------------------------------------- */
static int table_is_good(int64_t elements, int ranks, int64_t bucket, int64_t block)
{
    m2_shards s = m2_shards_make(elements, ranks, bucket, block);
    int good = s.total >= elements && s.total < elements + s.bucket && s.bucket % (ranks * block) == 0 &&
               s.bucket <= (bucket > ranks * block ? bucket + ranks * block : ranks * block);
    int64_t at = 0;
    for (int b = 0; b < s.buckets; b++) { /* pieces in order are the flat array */
        m2_slab whole = m2_shards_bucket(&s, b);
        good &= whole.at == at && whole.count == s.bucket;
        for (int r = 0; r < ranks; r++) {
            m2_shard_part p = m2_shards_piece(&s, b, r);
            good &= p.flat.at == at && p.flat.count == whole.count / ranks && p.flat.count % block == 0 &&
                    p.flat.count > 0;
            at += p.flat.count;
        }
    }
    good &= at == s.total;
    for (int r = 0; r < ranks; r++) { /* a shard's pieces follow each other */
        int64_t local = 0;
        for (int b = 0; b < s.buckets; b++) {
            good &= m2_shards_piece(&s, b, r).at == local;
            local += m2_shards_piece(&s, b, r).flat.count;
        }
        good &= local == m2_shards_count(&s);
    }
    for (int64_t e = 0; e < s.total; e++) {
        m2_shard_part o = m2_shards_owner(&s, e), p = m2_shards_piece(&s, o.bucket, o.rank);
        good &= e >= p.flat.at && e < p.flat.at + p.flat.count && o.at == p.at + e - p.flat.at;
    }
    return good;
}

static void test_table(void)
{
    int good = 1;
    for (int ranks = 1; ranks <= 8; ranks++)
        for (int64_t block = 1; block <= 4; block += 3)
            for (int64_t n = 0; n <= 130; n += 13)
                for (int64_t bucket = 1; bucket <= 200; bucket = 3 * bucket + 1)
                    good &= table_is_good(n, ranks, bucket, block);
    CU_ASSERT(good);
    m2_shards big = m2_shards_make((int64_t)3 << 32, 512, 4 << 20, M2_GROUP_BLOCK); /* 64 bits */
    CU_ASSERT(big.total >= (int64_t)3 << 32 && m2_shards_owner(&big, big.total - 1).rank == 511);
}

/* Every element of a range is found once, by its owner, whoever cut it before: any number of ranks to any other. */
static void test_ranges(void)
{
    int good = 1;
    enum { N = 96 };
    for (int ranks = 1; ranks <= 6; ranks++)
        for (int64_t at = 0; at < N; at += 7)
            for (int64_t count = 0; at + count <= N; count += 5) {
                m2_shards s = m2_shards_make(N, ranks, 25, 2);
                int found[N + 64] = {0};
                for (int r = 0; r < ranks; r++) {
                    m2_shard_part p;
                    int64_t before = -1;
                    for (int b = 0; m2_shards_next(&s, r, (m2_slab){at, count}, &b, &p);)
                        for (int64_t i = 0; i < p.flat.count; i++) {
                            m2_shard_part o = m2_shards_owner(&s, p.flat.at + i);
                            good &= o.rank == r && o.at == p.at + i && p.flat.at + i > before;
                            before = p.flat.at + i;
                            found[before]++;
                        }
                }
                for (int64_t e = 0; e < N; e++) good &= found[e] == (e >= at && e < at + count);
            }
    CU_ASSERT(good);
}

static void test_memory(void)
{
    m2_shards s = m2_shards_make(1 << 20, 4, 1 << 16, M2_GROUP_BLOCK);
    int64_t n = 1 << 20;
    m2_zero_memory f32 = m2_zero_bytes(&s, 1, 4, 4), bf16 = m2_zero_bytes(&s, 2, 4, 2),
                   all = m2_zero_bytes(&s, 0, 4, 2);
    CU_ASSERT(f32.master == 4 * n && f32.copy == 0 && f32.grads == 4 * n && f32.state == 2 * n);
    CU_ASSERT(bf16.master == n && bf16.copy == 2 * n && bf16.grads == n && bf16.state == 2 * n);
    CU_ASSERT(all.master == 4 * n && all.copy == 2 * n && all.grads == 4 * n && all.state == 8 * n);
}

/* ---- the stages -------------------------------------------------------------------------------------------------- */
enum { ELEMENTS = 5000, STEPS = 4 };

typedef struct model {
    m2_tensor p, g, m, v; /* flat; m and v shards from stage 1 on */
} model;

static m2_tensor slice(m2_tensor t, int64_t at, int64_t n)
{
    m2_desc d = m2_desc_make(t.dtype, ".", n);
    return m2_tensor_make(&d, (char *)t.data + at * m2_dtype_size(t.dtype));
}

/* The squared norm: over own pieces, then over the ranks. */
static m2_status norm(bench *b, const m2_shards *s, m2_tensor g, m2_tensor *norm2)
{
    double sum = 0;
    for (int k = 0; k < s->buckets; k++) {
        m2_slab own = m2_shards_piece(s, k, b->comm->rank).flat;
        m2_tensor piece = slice(g, own.at, own.count), one = fresh(b, m2_desc_make(M2_F64, ""));
        M2_TRY(call_op(b, &m2_op_sumsq, NULL, 0, &piece, 1, &one, 1));
        sum += *(double *)one.data;
    }
    *(double *)norm2->data = sum;
    return call_op(b, &m2_op_all_reduce, NULL, 0, norm2, 1, norm2, 1);
}

static m2_status adam(bench *b, const m2_step *step, m2_tensor p, m2_tensor g, m2_tensor m, m2_tensor v,
                      m2_tensor norm2)
{
    m2_tensor groups = fresh(b, m2_desc_make(M2_U8, ".", m2_tensor_count(&p) / M2_GROUP_BLOCK)), none = {0};
    memset(groups.data, 0, (size_t)m2_tensor_bytes(&groups));
    m2_call c = {.op = &m2_op_adam, .n_in = 6, .n_out = 4, .device = b->device, .step = step};
    m2_tensor in[] = {p, g, m, v, groups, norm2}, out[] = {p, m, v, none};
    for (int i = 0; i < 6; i++) c.in[i] = in[i];
    for (int i = 0; i < 4; i++) c.out[i] = out[i];
    c.attrs.f[M2_ADAM_BETA1] = 0.9, c.attrs.f[M2_ADAM_BETA2] = 0.98, c.attrs.f[M2_ADAM_EPS] = 1e-8;
    return m2_op_adam.run(&c);
}

static m2_status train(bench *b, const m2_shards *s, int stage, model *x)
{
    m2_attrs ranks = {.i[M2_COLLECTIVE_RANKS] = b->comm->size};
    m2_tensor norm2 = fresh(b, m2_desc_make(M2_F64, ""));
    for (int64_t at = 1; at <= STEPS; at++) {
        m2_step step = {.step = at, .lr = 0.01, .lr_peak = 0.01, .clip = 1, .group[0] = {1, 0.1}};
        for (int64_t i = 0; i < m2_tensor_count(&x->g); i++) /* of this rank's data, and of the parameters */
            set(&x->g, i,
                0.1 * get(&x->p, i) + (double)law_hash((int)at * 8 + b->comm->rank, i) / 4294967296.0);
        for (int k = 0; k < s->buckets; k++) {
            m2_slab all = m2_shards_bucket(s, k), own = m2_shards_piece(s, k, b->comm->rank).flat;
            m2_tensor bucket = slice(x->g, all.at, all.count), piece = slice(x->g, own.at, own.count);
            if (stage < 2)
                M2_TRY(call_op(b, &m2_op_all_reduce, NULL, 0, &bucket, 1, &bucket, 1));
            else
                M2_TRY(call_op(b, &m2_op_reduce_scatter, &ranks, 0, &bucket, 1, &piece, 1));
        }
        M2_TRY(norm(b, s, x->g, &norm2));
        if (stage == 0) {
            M2_TRY(adam(b, &step, x->p, x->g, x->m, x->v, norm2));
            continue;
        }
        for (int k = 0; k < s->buckets; k++) {
            m2_slab all = m2_shards_bucket(s, k);
            m2_shard_part own = m2_shards_piece(s, k, b->comm->rank);
            m2_tensor bucket = slice(x->p, all.at, all.count),
                      piece = slice(x->p, own.flat.at, own.flat.count);
            M2_TRY(adam(b, &step, piece, slice(x->g, own.flat.at, own.flat.count),
                        slice(x->m, own.at, own.flat.count), slice(x->v, own.at, own.flat.count), norm2));
            M2_TRY(call_op(b, &m2_op_all_gather, &ranks, 0, &piece, 1, &bucket, 1));
        }
    }
    return M2_OK;
}

static const char *stages_body(m2_comm *c, int type)
{
    bench b = {.comm = c, .t = (m2_dtype)type};
    WORKS(m2_device_open("cpu", 1, &b.device));
    m2_shards s = m2_shards_make(ELEMENTS, c->size, 1500, M2_GROUP_BLOCK);
    m2_tensor first = {0};
    for (int stage = 0; stage < 3; stage++) {
        m2_desc whole = m2_desc_make(b.t, ".", s.total), state = whole;
        if (stage) state.shape[0] = m2_shards_count(&s);
        model x = {noise(&b, whole, 5), fresh(&b, whole), fresh(&b, state), fresh(&b, state)};
        memset(x.m.data, 0, (size_t)m2_tensor_bytes(&x.m));
        memset(x.v.data, 0, (size_t)m2_tensor_bytes(&x.v));
        WORKS(train(&b, &s, stage, &x));
        if (stage == 0) first = x.p;
        LAW(!memcmp(first.data, x.p.data, (size_t)m2_tensor_bytes(&first)),
            "stage %d differs from stage 0 on %d ranks", stage, c->size);
    }
    m2_tensor start = noise(&b, m2_tensor_desc(&first), 5);
    LAW(memcmp(first.data, start.data, (size_t)m2_tensor_bytes(&first)) != 0, "nothing was trained");
    done_with(&b);
    m2_device_close(&b.device);
    return NULL;
}

static void test_stages(void)
{
    for (int size = 1; size <= 4; size++) {
        on_ranks(size, stages_body, M2_F32);
        on_ranks(size, stages_body, M2_F64);
    }
}

int main(void)
{
    return run_suite("shard", (CU_TestInfo[]){{"table", test_table},
                                              {"ranges", test_ranges},
                                              {"memory", test_memory},
                                              {"stages", test_stages},
                                              CU_TEST_INFO_NULL});
}
