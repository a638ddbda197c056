/* status.h - the result of everything that can fail.
 *
 * A fallible function returns m2_status. The message is written once, at its origin, by m2_fail(); every frame
 * it passes through on the way up may be recorded by M2_TRY. Nothing below main prints an error or exits.
 * The text lives in thread-local storage: move it between threads with m2_error_take / m2_error_put.
 *
 * The codes are also the process exit codes, which launch/ reads (see `m2 help exit-codes`). */
#ifndef M2_BASE_STATUS_H
#define M2_BASE_STATUS_H

#include <stddef.h>

/* X(name, exit code, what it tells the launcher) */
#define M2_STATUS_TABLE(X)                                                                                      \
    X(M2_OK, 0, "done")                                                                                         \
    X(M2_USAGE, 64, "bad option, command line or configuration: fix it, do not requeue")                        \
    X(M2_DATA, 65, "bad input data (store, text, checkpoint, tokenizer): fix it, do not requeue")               \
    X(M2_BUG, 70, "a defect of m2: please report it; requeueing will not help")                                 \
    X(M2_TRANSIENT, 71, "transient system or network failure: requeue on other nodes")                          \
    X(M2_IO, 74, "reading or writing a file failed (disk full, permissions, EIO)")                              \
    X(M2_REQUEUE, 75, "interrupted on purpose, checkpoint written: requeue to go on")

typedef enum m2_status {
#define M2_STATUS_ENUM(name, code, help) name = code,
    M2_STATUS_TABLE(M2_STATUS_ENUM)
#undef M2_STATUS_ENUM
} m2_status;

#define M2_MUST_USE __attribute__((warn_unused_result))
#define M2_PRINTF(fmt, first) __attribute__((format(printf, fmt, first)))
#define M2_API __attribute__((visibility("default")))

#ifdef __cplusplus
extern "C" {
#endif

/* Records the message of a new failure in this thread (dropping any earlier one) and returns `code`.
 * One sentence: what was being done, which value, what was expected, what to do. */
M2_API m2_status m2_fail(m2_status code, const char *fmt, ...) M2_PRINTF(2, 3);

/* Prepends "context: " to this thread's message, for callers that know the file or tensor concerned.
 * Does nothing for M2_OK. Returns `st`. */
M2_API m2_status m2_context(m2_status st, const char *fmt, ...) M2_PRINTF(2, 3);

/* Appends one "file:line function" frame to this thread's trace. Returns `st`. Used by M2_TRY. */
M2_API m2_status m2_frame(m2_status st, const char *file, int line, const char *func);

M2_API const char *m2_message(void);               /* this thread's message; "" if none */
M2_API const char *m2_trace(void);                 /* the frames, newest last; "" if none */
M2_API const char *m2_status_name(m2_status st);   /* "M2_DATA" */
M2_API const char *m2_status_help(m2_status st);   /* third column of the table */

/* A failure as a value, to carry from a worker thread to the thread that reports it. */
typedef struct m2_error {
    m2_status code;
    char message[1024];
    char trace[1024];
} m2_error;

M2_API void m2_error_take(m2_error *out, m2_status code); /* copies and clears this thread's message */
M2_API m2_status m2_error_put(const m2_error *err);       /* makes it this thread's; returns err->code */

#ifdef __cplusplus
}
#endif

#define M2_TRY(call)                                                                                            \
    do {                                                                                                        \
        m2_status m2_st_ = (call);                                                                              \
        if (m2_st_ != M2_OK) return m2_frame(m2_st_, __FILE__, __LINE__, __func__);                             \
    } while (0)

/* The same with one cleanup path: stores into `st` and jumps. */
#define M2_TRY_GOTO(st, call, label)                                                                            \
    do {                                                                                                        \
        (st) = (call);                                                                                          \
        if ((st) != M2_OK) {                                                                                    \
            m2_frame((st), __FILE__, __LINE__, __func__);                                                       \
            goto label;                                                                                         \
        }                                                                                                       \
    } while (0)

/* A condition only our own defect can break: M2_BUG with the text of the condition. */
#define M2_CHECK(cond)                                                                                          \
    do {                                                                                                        \
        if (!(cond)) return m2_fail(M2_BUG, "internal check failed at %s:%d: %s", __FILE__, __LINE__, #cond);   \
    } while (0)

#endif
