#include "parallel/peers.h"
#include "kernels/base/log.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Memory of every rank, as this process sees it; its own is not borrowed. */
typedef struct region {
    char *mine;
    int64_t bytes;
    void **of; /* [size] */
    struct region *next;
} region;

typedef struct m2_peers {
    region *flags, *lent;
    uint32_t turn;     /* number of the last exchange */
    m2_stream *stream; /* where it is, */
    m2_event *last;    /* and its end: flags are those of one exchange at a time */
    m2_stream *side;   /* half of the copies, from `begun` to `side_done` */
    m2_event *begun, *side_done;
} m2_peers;

enum { FLAGS_BYTES = 2 << 20 }; /* smaller allocations share pages, which are lent whole */

/* The flag in the memory of rank `at` that rank `by` raises. */
static uint32_t *flag(const m2_comm *c, int at, int done, int by)
{
    return (uint32_t *)c->peers->flags->of[at] + done * c->size + by;
}

/* ---- lending ------------------------------------------------------------------------------------------------------- */
typedef struct card {
    char node[64], gpu[sizeof((m2_device *)0)->uid];
    m2_ticket ticket;
    int64_t bytes;
    uint64_t places;
    int32_t failed;
} card;

static void free_region(m2_comm *c, region *r)
{
    for (int i = 0; r && r->of && i < c->size; i++)
        if (i != c->rank && r->of[i]) c->device->api->give_back(c->device, r->of[i]);
    if (r) free(r->of);
    free(r);
}

/* Why these cards do not go together; NULL: they do. */
static const char *objection(const card *cards, int size)
{
    for (int r = 0; r < size; r++) {
        if (cards[r].failed) return "a GPU's memory cannot be lent";
        if (memcmp(cards[r].node, cards[0].node, sizeof cards[r].node)) return "the ranks are on several hosts";
        for (int s = 0; s < r; s++)
            if (!memcmp(cards[r].gpu, cards[s].gpu, sizeof cards[r].gpu)) return "ranks share a GPU";
        if (cards[r].bytes != cards[0].bytes || cards[r].places != cards[0].places)
            return "buffers have other places on some ranks";
    }
    return NULL;
}

static m2_status borrow_all(m2_comm *c, const card *cards, region *out)
{
    for (int r = 0; r < c->size; r++) {
        out->of[r] = out->mine;
        if (r == c->rank) continue;
        out->of[r] = NULL;
        M2_TRY(c->device->api->borrow(c->device, &cards[r].ticket, &out->of[r]));
    }
    return M2_OK;
}

/* *out NULL: it cannot be, on no rank. Failures that leave the ranks as they were are no errors. */
static m2_status share(m2_comm *c, void *base, int64_t bytes, uint64_t places, card *cards, region **out)
{
    region *r = *out;
    card mine = {.bytes = bytes, .places = places};
    const char *why = NULL;
    gethostname(mine.node, sizeof mine.node - 1);
    memcpy(mine.gpu, c->device->uid, sizeof mine.gpu);
    mine.failed = c->device->api->lend(c->device, base, &mine.ticket) != M2_OK;
    M2_TRY(c->host->api->all_gather(c->host, &mine, cards, sizeof mine, M2_U8, NULL));
    r->mine = base, r->bytes = bytes;
    why = objection(cards, c->size);
    m2_status st = why ? m2_fail(M2_USAGE, "%s", why) : borrow_all(c, cards, r);
    int32_t failed = st != M2_OK;
    if (why) m2_log_once(M2_LOG_INFO, "no copies between GPUs, %s carries exchanges: %s", c->api->kind, why);
    else if (failed) m2_log(M2_LOG_INFO, "no copies between GPUs, %s carries exchanges: %s", c->api->kind, m2_message());
    M2_TRY(c->host->api->all_reduce(c->host, &failed, &failed, 1, M2_I32, M2_MAX, NULL));
    if (!failed) return M2_OK;
    free_region(c, r);
    *out = NULL;
    return c->host->api->barrier(c->host); /* nobody has it any more */
}

static m2_status open_region(m2_comm *c, void *base, int64_t bytes, uint64_t places, region **out)
{
    region *r = calloc(1, sizeof *r);
    card *cards = calloc((size_t)c->size, sizeof *cards);
    if (r) r->of = calloc((size_t)c->size, sizeof *r->of);
    m2_status st = cards && r && r->of ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory to lend memory to %d ranks", c->size);
    st = m2_comm_agree(c, st);
    *out = r;
    if (st == M2_OK) st = share(c, base, bytes, places, cards, out);
    if (st != M2_OK) free_region(c, *out), *out = NULL;
    free(cards);
    return st;
}

/* The flags, all down. */
static m2_status open_peers(m2_comm *c)
{
    m2_device *dev = c->device;
    void *flags = NULL;
    m2_peers *p = c->peers = calloc(1, sizeof *p);
    M2_TRY(m2_comm_agree(c, p ? M2_OK : m2_fail(M2_TRANSIENT, "out of memory to lend memory to %d ranks", c->size)));
    m2_status st = dev->api->alloc(dev, M2_MEM_DEVICE, FLAGS_BYTES, &flags);
    if (st == M2_OK) st = dev->api->fill(dev, flags, 0, FLAGS_BYTES, NULL);
    if (st == M2_OK) st = dev->api->stream_sync(dev, NULL);
    if (st == M2_OK) st = dev->api->stream_create(dev, 1, &p->side);
    m2_event **const events[] = {&p->last, &p->begun, &p->side_done};
    for (size_t i = 0; i < sizeof events / sizeof *events && st == M2_OK; i++) st = dev->api->event_create(dev, events[i]);
    st = m2_comm_agree(c, st);
    if (st == M2_OK) st = open_region(c, flags, FLAGS_BYTES, 0, &p->flags);
    if (flags && (st != M2_OK || !p->flags)) dev->api->free(dev, M2_MEM_DEVICE, flags);
    return st;
}

m2_status m2_comm_lend(m2_comm *c, void *base, int64_t bytes, uint64_t places, int *lent)
{
    region *r = NULL;
    *lent = 0;
    if (c->size == 1 || bytes == 0 || !c->device || !c->device->api->lend) return M2_OK;
    M2_CHECK(2 * c->size * (int64_t)sizeof(uint32_t) <= FLAGS_BYTES);
    if (!c->peers) M2_TRY(open_peers(c));
    if (c->peers->flags) M2_TRY(open_region(c, base, bytes, places, &r));
    if (!r) return M2_OK;
    r->next = c->peers->lent;
    c->peers->lent = r;
    *lent = 1;
    m2_log_once(M2_LOG_INFO, "exchanges between GPUs of this host are copies into each other's memory");
    return M2_OK;
}

m2_status m2_comm_take_back(m2_comm *c, void *base)
{
    region **at = c->peers ? &c->peers->lent : NULL;
    while (at && *at && (*at)->mine != base) at = &(*at)->next;
    if (!at || !*at) return M2_OK;
    region *r = *at;
    *at = r->next;
    free_region(c, r);
    return c->host->api->barrier(c->host); /* nobody has it any more */
}

void m2_peers_close(m2_comm *c)
{
    m2_peers *p = c->peers;
    if (!p) return;
    for (region *r = p->lent, *next; r; r = next) next = r->next, free_region(c, r);
    m2_event *const events[] = {p->last, p->begun, p->side_done};
    for (size_t i = 0; i < sizeof events / sizeof *events; i++)
        if (events[i]) c->device->api->event_destroy(c->device, events[i]);
    if (p->side) c->device->api->stream_destroy(c->device, p->side);
    if (p->flags) { /* pages of a process that ends stay until those who borrowed them are done */
        void *mine = p->flags->mine;
        free_region(c, p->flags);
        c->device->api->free(c->device, M2_MEM_DEVICE, mine);
    }
    free(p);
    c->peers = NULL;
}

/* ---- exchange ---------------------------------------------------------------------------------------------------- */
static const region *region_of(const m2_comm *c, const void *at, int64_t bytes)
{
    const region *r = c->peers ? c->peers->lent : NULL;
    const char *p = at;
    while (r && (p < r->mine || p + bytes > r->mine + r->bytes)) r = r->next;
    return r;
}

int m2_peers_reach(const m2_comm *c, const void *recv, int64_t bytes)
{
    return region_of(c, recv, bytes) != NULL;
}

m2_status m2_peers_swap(m2_comm *c, const void *send, int64_t send_step, void *recv, int64_t recv_step, int64_t bytes,
                        m2_stream *s)
{
    const m2_device_api *api = c->device->api;
    m2_device *dev = c->device;
    const region *to = region_of(c, recv, (c->size - 1) * recv_step + bytes);
    const int64_t there = (char *)recv - to->mine + c->rank * recv_step; /* my block, in everyone's memory */
    m2_peers *p = c->peers;
    const uint32_t n = ++p->turn;
    M2_TRY(c->api->check(c));
    if (n > 1 && s != p->stream) M2_TRY(api->event_wait(dev, p->last, s));
    M2_TRY(api->event_record(dev, p->begun, s));
    M2_TRY(api->event_wait(dev, p->begun, p->side));
    for (int i = 1; i < c->size; i++) M2_TRY(api->raise(dev, flag(c, (c->rank + i) % c->size, 0, c->rank), n, s));
    for (int i = 0; i < c->size; i++) { /* its own block waits for nobody */
        int r = (c->rank + i) % c->size;
        m2_stream *on = i % 2 ? s : p->side;
        if (i) M2_TRY(api->await(dev, flag(c, c->rank, 0, r), n, on));
        M2_TRY(api->copy(dev, (char *)to->of[r] + there, (const char *)send + r * send_step, bytes, on));
        if (i) M2_TRY(api->raise(dev, flag(c, r, 1, c->rank), n, on));
    }
    M2_TRY(api->event_record(dev, p->side_done, p->side));
    M2_TRY(api->event_wait(dev, p->side_done, s));
    for (int i = 1; i < c->size; i++) M2_TRY(api->await(dev, flag(c, c->rank, 1, (c->rank + i) % c->size), n, s));
    c->bytes_sent += bytes * (c->size - 1);
    p->stream = s;
    return api->event_record(dev, p->last, s);
}
