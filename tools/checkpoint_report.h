/* checkpoint_report.h - reading a checkpoint for people: statistics per tensor, and all that is damaged or lost, also
 * in folders that are no longer whole. Shared by the subjects of `m2 inspect checkpoint`. */
#ifndef M2_TOOLS_CHECKPOINT_REPORT_H
#define M2_TOOLS_CHECKPOINT_REPORT_H

#include "runtime/checkpoint.h"

struct XXH3_state_s;
enum { M2I_BINS = 24 };

typedef struct m2i_stats {
    int64_t count, bad, lost; /* elements: all read, not finite, unreadable */
    double min, max, sum, squares;
    int64_t bins[M2I_BINS]; /* from min to max */
    struct XXH3_state_s *hash; /* of its bytes so far: slabs come in the order of the elements */
} m2i_stats;

/* One thing that is wrong. */
typedef struct m2i_damage {
    int rank, tensor; /* -1: not of one rank, not of one tensor */
    char why[1024];
} m2i_damage;

typedef struct m2i_report {
    m2_manifest mf;
    int rebuilt; /* the manifest is lost: what the rank files say */
    m2i_stats *tensors;
    int64_t bytes;
    uint64_t content; /* hash of all names, shapes and numbers */
    int n_damages, room_damages;
    m2i_damage *damages; /* in the order: manifest, files, slabs */
} m2i_report;

typedef enum m2i_depth {
    M2I_HASHES, /* is it whole? */
    M2I_STATS,
    M2I_HISTOGRAMS /* reads everything twice */
} m2i_depth;

/* Reads all of the checkpoint at `folder`. Damage is no failure: it is listed. Free also after a failure. */
m2_status m2i_report_make(const char *folder, m2i_depth depth, m2i_report *out) M2_MUST_USE;
void m2i_report_free(m2i_report *r);
m2_status m2i_report_verdict(const m2i_report *r) M2_MUST_USE; /* M2_DATA with the first damage if there is any */

/* The same for what a user calls a checkpoint: a run folder, its checkpoints folder, or one checkpoint in any condition. */
m2_status m2i_inspect_open(const char *path, m2i_depth depth, m2i_report *out) M2_MUST_USE;
/* m2 inspect checkpoint diff A B */
m2_status m2i_inspect_diff(const char *a, const char *b, int all, int json) M2_MUST_USE;

double m2i_stats_mean(const m2i_stats *s);
double m2i_stats_deviation(const m2i_stats *s);
void m2i_stats_merge(m2i_stats *into, const m2i_stats *s); /* bins and hash left out */

/* "0-2,5": the ranks that hold slabs of tensors [begin, end). */
char *m2i_owners(const m2_manifest *mf, int begin, int end, char *buf, size_t n);
char *m2i_shape_text(const m2_array_info *info, char *buf, size_t n); /* "3 x 4" */
void m2i_print_json_string(const char *s);

#endif
