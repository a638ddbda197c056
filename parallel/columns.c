#include "parallel/columns.h"
#include "kernels/base/log.h"

#include <stdio.h>
#include <string.h>

m2_status m2_columns_choose(int64_t length, int ranks, int64_t least, m2_columns *out)
{
    int64_t each = length / ranks, best = 0;
    if (length % ranks)
        return m2_fail(M2_USAGE, "%d ranks do not divide a length of %lld", ranks, (long long)length);
    if (least < 1) least = 1;
    for (int64_t used = 1; used * least <= each && used * used <= length; used++) {
        if (each % used) continue;
        int64_t rows = (used + ranks - 1) / ranks * ranks; /* spectra there and back, three thirds' halo */
        int64_t sent = 4 * rows * (each / used) + 3 * used * least;
        if (best && sent >= best) continue;
        best = sent;
        *out = (m2_columns){rows, used, length / used, each / used};
    }
    if (best) return M2_OK;
    return m2_fail(M2_USAGE,
                   "the monarch exchange needs at least %lld columns of tokens on each rank, one short of "
                   "the taps of the "
                   "short convolution, and %d ranks leave %lld tokens each",
                   (long long)least, ranks, (long long)each);
}

m2_runs m2_columns_runs(const m2_columns *c, int64_t length, int ranks, int rank)
{
    int64_t own = length / ranks;
    if (!c->width) return (m2_runs){rank * own, own, own, 0};
    return (m2_runs){rank * c->own, own, c->own, c->width - c->own};
}

/* ---- which one --------------------------------------------------------------------------------------------------- */
static int64_t to_others(int64_t elements, m2_dtype t, int ranks)
{
    return elements / ranks * (ranks - 1) * m2_dtype_size(t);
}

static m2_status try_channel(const m2_exchange_ask *a, m2_exchange_choice *out)
{
    out->channel_bytes = -1;
    if (a->channels % a->ranks)
        return m2_fail(
            M2_USAGE,
            "the channel exchange gives each rank as many channels, and %d ranks do not divide the channels "
            "model.width=%lld",
            a->ranks, (long long)a->channels);
    if (a->length / a->ranks < a->taps - 1)
        return m2_fail(M2_USAGE,
                       "%d ranks leave %lld tokens each, too few for a short convolution of %lld taps",
                       a->ranks, (long long)(a->length / a->ranks), (long long)a->taps);
    out->channel_bytes = 2 * to_others(a->channels * (a->length / a->ranks), a->compute, a->ranks);
    return M2_OK;
}

static m2_status try_monarch(const m2_exchange_ask *a, m2_exchange_choice *out, m2_columns *c)
{
    m2_dtype precise = a->compute == M2_F64 ? M2_F64 : M2_F32;
    out->monarch_bytes = -1;
    M2_TRY(m2_columns_choose(a->length, a->ranks, a->taps - 1, c));
    out->monarch_bytes = to_others((2 * a->channels + a->filters) * c->rows * c->own * 2, precise, a->ranks);
    return M2_OK;
}

static const char *amount(char *text, int64_t bytes)
{
    return bytes < 0 ? "is impossible" : m2_human_bytes(text, bytes);
}

/* Groups that divide what a rank convolves at once; chosen ones are worth their messages. */
static int choose_groups(const m2_exchange_ask *a, const m2_exchange_choice *c)
{
    enum { MOST = 4 };
    const int64_t worth = 1 << 20; /* bytes for one peer */
    int monarch = c->kind == M2_EXCHANGE_MONARCH, peers = a->ranks > 1 ? a->ranks - 1 : 1;
    int64_t channels = monarch ? a->channels : a->channels / a->ranks,
            bytes = (monarch ? c->monarch_bytes : c->channel_bytes) / 2 / peers, groups = a->groups;
    if (!groups) groups = !a->beside ? 1 : bytes / worth < MOST ? bytes / worth : MOST;
    if (groups > channels) groups = channels;
    while (groups > 1 && channels % groups) groups--;
    return groups > 1 ? (int)groups : 1;
}

m2_status m2_exchange_choose(const m2_exchange_ask *a, m2_exchange_choice *out)
{
    m2_columns c = {0};
    m2_error no_channel = {.code = M2_OK}, no_monarch = {.code = M2_OK};
    char x[32], y[32];
    *out = (m2_exchange_choice){.kind = M2_EXCHANGE_CHANNEL};
    m2_status st = try_channel(a, out);
    if (st != M2_OK) m2_error_take(&no_channel, st);
    st = try_monarch(a, out, &c);
    if (st != M2_OK) m2_error_take(&no_monarch, st);
    int can_channel = no_channel.code == M2_OK, can_monarch = no_monarch.code == M2_OK;
    if (!can_channel && !can_monarch)
        return m2_fail(M2_USAGE, "no exchange fits: %s; %s", no_channel.message, no_monarch.message);
    if (!strcmp(a->want, "channel") && !can_channel) return m2_error_put(&no_channel);
    if (!strcmp(a->want, "monarch") && !can_monarch) return m2_error_put(&no_monarch);
    int automatic = !strcmp(a->want, "auto"),
        monarch = automatic ? !can_channel || (can_monarch && out->monarch_bytes < out->channel_bytes)
                            : !strcmp(a->want, "monarch");
    if (monarch) out->kind = M2_EXCHANGE_MONARCH, out->columns = c;
    out->groups = choose_groups(a, out);
    char groups[32] = "";
    if (out->groups > 1) snprintf(groups, sizeof groups, " in %d groups", out->groups);
    const char *name = monarch ? "monarch" : "channel", *reason = !automatic ? "as run.exchange says"
                                                                  : can_channel && can_monarch ? "fewer bytes"
                                                                  : can_channel ? no_monarch.message
                                                                                : no_channel.message;
    snprintf(out->why, sizeof out->why,
             "%s (%.160s)%s; per sequence and long convolution a rank sends: channel %s, monarch %s", name,
             reason, groups, amount(x, out->channel_bytes), amount(y, out->monarch_bytes));
    return M2_OK;
}
