#include "kernels/base/status.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static _Thread_local struct {
    char message[sizeof((m2_error *)0)->message];
    char trace[sizeof((m2_error *)0)->trace];
} local;

m2_status m2_fail(m2_status code, const char *fmt, ...)
{
    char text[sizeof local.message]; /* the arguments may point into local.message */
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof text, fmt, ap);
    va_end(ap);
    memcpy(local.message, text, sizeof text);
    local.trace[0] = 0;
    return code;
}

m2_status m2_context(m2_status st, const char *fmt, ...)
{
    if (st == M2_OK) return st;
    char prefix[256], text[sizeof local.message + sizeof prefix + 2];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(prefix, sizeof prefix, fmt, ap);
    va_end(ap);
    snprintf(text, sizeof text, "%s: %s", prefix, local.message);
    memcpy(local.message, text, sizeof local.message);
    local.message[sizeof local.message - 1] = 0;
    return st;
}

m2_status m2_frame(m2_status st, const char *file, int line, const char *func)
{
    size_t n = strlen(local.trace);
    const char *base = strrchr(file, '/');
    snprintf(local.trace + n, sizeof local.trace - n, "%s%s:%d %s", n ? " <- " : "", base ? base + 1 : file, line,
             func);
    return st;
}

const char *m2_message(void)
{
    return local.message;
}

const char *m2_trace(void)
{
    return local.trace;
}

static const struct {
    m2_status code;
    const char *name, *help;
} statuses[] = {
#define ROW(name, code, help) {name, #name, help},
    M2_STATUS_TABLE(ROW)
#undef ROW
};

const char *m2_status_name(m2_status st)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (statuses[i].code == st) return statuses[i].name;
    return "M2_?";
}

const char *m2_status_help(m2_status st)
{
    for (size_t i = 0; i < sizeof statuses / sizeof *statuses; i++)
        if (statuses[i].code == st) return statuses[i].help;
    return "unknown status";
}

void m2_error_take(m2_error *out, m2_status code)
{
    out->code = code;
    memcpy(out->message, local.message, sizeof out->message);
    memcpy(out->trace, local.trace, sizeof out->trace);
    local.message[0] = local.trace[0] = 0;
}

m2_status m2_error_put(const m2_error *err)
{
    memcpy(local.message, err->message, sizeof err->message);
    memcpy(local.trace, err->trace, sizeof err->trace);
    return err->code;
}
