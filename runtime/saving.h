/* saving.h - a run's checkpoints: whose turn it is, when a save begins and ends, and what happens when one fails. */
#ifndef M2_SAVING_H
#define M2_SAVING_H

#include "runtime/checkpoint.h"
#include "runtime/config.h"
#include "runtime/progress.h"
#include "runtime/rundir.h"

typedef struct m2_saving {
    m2_saver *saver;
    m2_save_spec spec; /* of the next save but for its step and rows; the token is known to all ranks */
    m2_comm *comm;
    m2_progress *progress; /* for notes */
    int background, go_on; /* options: train on meanwhile; train on after a failure */
    double bandwidth;
    int64_t saved; /* step of the newest whole checkpoint, -1 = none */
    int64_t n;     /* whole ones written by this process */
    double waited; /* seconds that training waited for them */
    double took;   /* seconds of the newest, from copy to commit */
    double looked; /* for a newer job: when */
} m2_saving;

/* Takes the run for this job: from here on no older job commits. What one committed just before is to be looked for
 * afterwards. Collective. */
M2_API m2_status m2_saving_claim(m2_saving *s, const m2_rundir *dir, m2_comm *comm) M2_MUST_USE;
/* config, tokenizer: for manifests; they, dir, state and progress must live as long as s. Collective. */
M2_API m2_status m2_saving_open(m2_saving *s, const m2_config *cfg, const m2_rundir *dir, const char *config,
                                const char *tokenizer, const m2_state *state, m2_progress *progress) M2_MUST_USE;
/* This rank's word before a step: M2_USAGE when a newer job has taken the run (rank 0 looks once a second). */
M2_API m2_status m2_saving_look(m2_saving *s) M2_MUST_USE;
M2_API int m2_saving_busy(const m2_saving *s); /* this rank is still writing */
/* Between two steps, `busy` the most of all ranks: goes on with the save in flight if it can. Collective. */
M2_API m2_status m2_saving_poll(m2_saving *s, int busy) M2_MUST_USE;
/* Saves the state after `step`, which the device has finished; waits for an earlier save first. last: the run ends here, so
 * it is waited for, and its failure is one whatever checkpoint.on_failure says. Collective. */
M2_API m2_status m2_saving_begin(m2_saving *s, int64_t step, int64_t rows, int last) M2_MUST_USE;
/* Fills the state from the checkpoint that a run goes back to (m2_checkpoint_back), once nothing is in flight; newer ones are
 * deleted: they are of what is given up. The device must be idle; m2_program_params_changed must follow. mf->n_tensors stays 0
 * where there is none. Collective; ranks agree. */
M2_API m2_status m2_saving_back(m2_saving *s, const m2_state *state, int64_t every, m2_manifest *mf) M2_MUST_USE;
M2_API m2_status m2_saving_wait(m2_saving *s) M2_MUST_USE; /* until nothing is in flight. Collective */
M2_API void m2_saving_close(m2_saving *s);                 /* says what saving cost; accepts a zeroed one */

#endif
