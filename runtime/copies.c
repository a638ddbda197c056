#include "runtime/copies.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <xxhash.h>

enum { PIECE = 4 << 20, NODE = 64, NAMED = 16 };

struct m2_copies {
    m2_program *program;
    const m2_state *state;
    m2_comm *comm;
    int on_host;     /* the device's memory is the host's */
    void *piece;     /* pinned */
    int n;           /* tensors hashed */
    uint64_t *hash;  /* [n] of this rank */
    uint64_t *whole; /* [ranks] one number each */
    XXH3_state_t *hasher;
};

m2_status m2_copies_open(m2_program *p, const m2_state *state, m2_comm *comm, m2_copies **out)
{
    m2_copies *c = *out = calloc(1, sizeof *c);
    if (!c) return m2_fail(M2_TRANSIENT, "out of memory for comparing ranks");
    *c = (m2_copies){.program = p, .state = state, .comm = comm, .on_host = !strcmp(state->device->api->kind, "cpu")};
    c->hash = calloc((size_t)(state->n_rows * state->n_arrays) + 1, sizeof *c->hash);
    c->whole = calloc((size_t)comm->size, sizeof *c->whole);
    c->hasher = XXH3_createState();
    m2_status st = c->hash && c->whole && c->hasher ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory for comparing ranks");
    if (st == M2_OK && !c->on_host) st = state->device->api->alloc(state->device, M2_MEM_HOST, PIECE, &c->piece);
    if (st != M2_OK) m2_copies_close(out);
    return st;
}

void m2_copies_close(m2_copies **copies)
{
    m2_copies *c = *copies;
    *copies = NULL;
    if (!c) return;
    if (c->piece) c->state->device->api->free(c->state->device, M2_MEM_HOST, c->piece);
    if (c->hasher) XXH3_freeState(c->hasher);
    free(c->hash);
    free(c->whole);
    free(c);
}

/* ---- hashes ------------------------------------------------------------------------------------------------------ */
/* Row i as kept in array a, as far as this rank has all of it: data NULL = it has not. */
static m2_tensor copy_of(const m2_copies *c, int a, int i)
{
    const m2_state *s = c->state;
    const m2_param *row = &s->rows[i];
    m2_tensor x = m2_program_tensor(c->program, row->tid);
    int params = !strcmp(s->arrays[a].kind, "param");
    if (!params && (row->flags & M2_PARAM_FROZEN || s->arrays[a].shards)) x.data = NULL;
    if (s->arrays[a].shards || !x.data) return x;
    x.dtype = s->arrays[a].dtype;
    x.data = (char *)s->arrays[a].base + row->offset * m2_dtype_size(x.dtype);
    return x;
}

static m2_status hash_one(m2_copies *c, const m2_tensor *x, uint64_t *out)
{
    m2_device *dev = c->state->device;
    int64_t bytes = m2_tensor_bytes(x);
    XXH3_64bits_reset(c->hasher);
    for (int64_t at = 0; at < bytes; at += PIECE) {
        int64_t n = bytes - at < PIECE ? bytes - at : PIECE;
        const char *from = (const char *)x->data + at;
        if (!c->on_host) {
            M2_TRY(dev->api->copy(dev, c->piece, from, n, NULL));
            M2_TRY(dev->api->stream_sync(dev, NULL));
            from = c->piece;
        }
        XXH3_64bits_update(c->hasher, from, (size_t)n);
    }
    *out = XXH3_64bits_digest(c->hasher);
    return M2_OK;
}

static m2_status hash_all(m2_copies *c)
{
    c->n = 0;
    for (int a = 0; a < c->state->n_arrays; a++)
        for (int i = 0; i < c->state->n_rows; i++) {
            m2_tensor x = copy_of(c, a, i);
            if (x.data) M2_TRY(hash_one(c, &x, &c->hash[c->n++]));
        }
    c->whole[c->comm->rank] = XXH3_64bits(c->hash, (size_t)c->n * sizeof *c->hash);
    return M2_OK;
}

/* ---- comparing --------------------------------------------------------------------------------------------------- */
int m2_copies_majority(const uint64_t *number, int ranks)
{
    int at = 0, votes = 0; /* Boyer and Moore: if there is one, it is this one */
    for (int r = 0; r < ranks; r++) {
        if (!votes) at = r;
        votes += number[r] == number[at] ? 1 : -1;
    }
    votes = 0;
    for (int r = 0; r < ranks; r++) votes += number[r] == number[at];
    return 2 * votes > ranks ? at : -1;
}

/* The first hash in which a rank differs from `like`, and how many do. */
static int first_difference(const m2_copies *c, const uint64_t *all, int like, int *different)
{
    int first = -1;
    *different = 0;
    for (int k = 0; k < c->n; k++) {
        int odd = 0;
        for (int r = 0; r < c->comm->size; r++) odd |= all[(size_t)r * (size_t)c->n + k] != all[(size_t)like * (size_t)c->n + k];
        if (odd && first < 0) first = k;
        *different += odd;
    }
    return first;
}

static void name_tensor(const m2_copies *c, int k, char *text, size_t n)
{
    for (int a = 0; a < c->state->n_arrays; a++)
        for (int i = 0; i < c->state->n_rows; i++)
            if (copy_of(c, a, i).data && k-- == 0) snprintf(text, n, "%s/%s", c->state->arrays[a].kind, c->state->rows[i].name);
}

/* "rank 1 (node7), rank 5 (node8)": those that do not have the number of `like`; -1: all. */
static int name_ranks(const m2_copies *c, const char (*nodes)[NODE], int like, char *text, size_t n)
{
    size_t at = 0;
    int found = 0;
    *text = 0;
    for (int r = 0; r < c->comm->size; r++) {
        if (like >= 0 && c->whole[r] == c->whole[like]) continue;
        if (found++ < NAMED && at < n)
            at += (size_t)snprintf(text + at, n - at, "%srank %d (%s)", at ? ", " : "", r, nodes[r]);
    }
    if (found > NAMED && at < n) snprintf(text + at, n - at, " and %d more", found - NAMED);
    return found;
}

static m2_status judge(const m2_copies *c, int64_t step, int64_t saved, const uint64_t *all, const char (*nodes)[NODE])
{
    char tensor[M2_TENSOR_NAME] = "", ranks[NAMED * 100], left[80];
    int size = c->comm->size, like = m2_copies_majority(c->whole, size), different;
    int first = first_difference(c, all, like < 0 ? 0 : like, &different);
    int odd = name_ranks(c, nodes, like, ranks, sizeof ranks);
    name_tensor(c, first, tensor, sizeof tensor);
    if (saved >= 0)
        snprintf(left, sizeof left, "the checkpoint of step %" PRId64 " is from before this", saved);
    else
        snprintf(left, sizeof left, "no checkpoint was written");
    if (like >= 0)
        return m2_fail(M2_TRANSIENT,
                       "silent corruption: after step %" PRId64 " %s %s not hold the same bits as the other %d ranks, first in "
                       "%s (%d of %d tensors differ). Memory or a core there makes errors: take the node out and start again; %s",
                       step, ranks, odd == 1 ? "does" : "do", size - odd, tensor, different, c->n, left);
    return m2_fail(M2_TRANSIENT,
                   "silent corruption: after step %" PRId64 " %s do not hold the same bits, first in %s (%d of %d tensors "
                   "differ); %s, so it cannot be told which is wrong: test these nodes' memory, then start again; %s",
                   step, ranks, tensor, different, c->n,
                   size == 2 ? "they are only two" : "no more than half of the ranks agree", left);
}

m2_status m2_copies_report(m2_copies *c, int64_t step, int64_t saved)
{
    m2_comm *host = c->comm->host;
    size_t ranks = (size_t)host->size;
    char mine[NODE] = "";
    uint64_t *all = calloc(ranks * (size_t)c->n + 1, sizeof *all);
    char(*nodes)[NODE] = calloc(ranks, sizeof *nodes);
    gethostname(mine, sizeof mine - 1);
    m2_status st = all && nodes ? M2_OK : m2_fail(M2_TRANSIENT, "ranks differ, and memory is out to say in what");
    st = m2_comm_agree(c->comm, st);
    if (st == M2_OK) st = host->api->all_gather(host, mine, nodes, NODE, M2_U8, NULL);
    if (st == M2_OK) st = host->api->all_gather(host, c->hash, all, c->n, M2_I64, NULL);
    if (st == M2_OK) st = judge(c, step, saved, all, (const char(*)[NODE])nodes);
    free(all);
    free(nodes);
    return st;
}

m2_status m2_copies_compare(m2_copies *c, int *differ)
{
    m2_comm *host = c->comm->host;
    *differ = 0;
    if (host->size == 1) return M2_OK;
    M2_TRY(m2_comm_agree(c->comm, hash_all(c)));
    M2_TRY(host->api->all_gather(host, &c->whole[host->rank], c->whole, 1, M2_I64, NULL));
    for (int r = 1; r < host->size; r++) *differ |= c->whole[r] != c->whole[0];
    return M2_OK;
}
