/* log.h - one line per event, on standard error. Errors are not logged here: they travel as m2_status.
 * Only the process whose m2_log_rank() is 0 prints lines below M2_LOG_ERROR. Thread-safe. */
#ifndef M2_BASE_LOG_H
#define M2_BASE_LOG_H

#include "kernels/base/status.h"
#include <stdint.h>

typedef enum m2_log_level { M2_LOG_DEBUG, M2_LOG_INFO, M2_LOG_WARN, M2_LOG_ERROR } m2_log_level;

#ifdef __cplusplus
extern "C" {
#endif

/* Default: INFO, rank 0. M2_LOG=debug in the environment shows everything. */
M2_API void m2_log_setup(m2_log_level lowest, int rank);
M2_API int m2_log_rank(void);
M2_API void m2_log(m2_log_level level, const char *fmt, ...) M2_PRINTF(2, 3);
/* Logs the sentence once per process however often it is said: for choices that repeat per layer. */
M2_API void m2_log_once(m2_log_level level, const char *fmt, ...) M2_PRINTF(2, 3);

M2_API double m2_now(void); /* monotonic seconds */

/* "1.5 GiB", "361.8M", "2m05s" into a caller's buffer of at least 32 bytes; returns it. */
M2_API char *m2_human_bytes(char *buf, int64_t bytes);
M2_API char *m2_human_count(char *buf, double count);
M2_API char *m2_human_time(char *buf, double seconds);

#ifdef __cplusplus
}
#endif
#endif
