/* eval.c - m2 eval CHECKPOINT [key=value ...] */
#include "kernels/base/log.h"
#include "runtime/eval.h"
#include "runtime/fit.h"
#include "runtime/models/model.h"
#include "runtime/restore.h"
#include "runtime/task.h"
#include "tools/tool.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

const char tool_eval_usage[] =
    "usage: m2 eval CHECKPOINT [--json] [KEY=VALUE ...]      also under mpirun\n"
    "\n"
    "How good a trained model is on data.val, the store or file of its run unless you name another.\n"
    "CHECKPOINT is a run folder (its newest checkpoint) or a checkpoints/step-N folder.\n"
    "\n"
    "  text (model.family=gpt)   loss, perplexity, bits per byte, top-1: how often the next token was the likeliest\n"
    "  masked text (bert)        loss, perplexity and top-1 at the tokens it hides: mlm.val_rate of them, always\n"
    "                            the same ones\n"
    "  a task of GLUE            the scores of the task over a TSV file\n"
    "  pictures (vit)            loss and top-1\n"
    "\n"
    "  m2 eval runs/first data.val=other.h5\n"
    "  m2 eval runs/mnli data.val=glue/MNLI/dev_mismatched.tsv\n"
    "\n"
    "  --json     one JSON object instead of the table\n"
    "  KEY=VALUE  options as in m2 help options: data.val, train.micro, train.precision, run.device, ...\n";

typedef struct report {
    const char *checkpoint, *store;
    const char *unit; /* what loss and top-1 are means over */
    int64_t step;
    m2_eval_result result;
    double bits_per_byte; /* NaN: the store does not say how many bytes it stands for */
} report;

static void print_json(const report *r)
{
    printf("{\"checkpoint\": \"%s\", \"step\": %" PRId64 ", \"store\": \"%s\", \"sequences\": %" PRId64
           ", \"tokens\": %" PRId64 ", \"loss\": %.17g, \"perplexity\": %.9g, ",
           r->checkpoint, r->step, r->store, r->result.sequences, r->result.tokens, r->result.loss,
           exp(r->result.loss));
    if (!isnan(r->bits_per_byte)) printf("\"bits_per_byte\": %.9g, ", r->bits_per_byte);
    printf("\"top1\": %.9g}\n", r->result.top1);
}

static void print_scores(const report *r, int json)
{
    const m2_eval_result *e = &r->result;
    if (json)
        printf("{\"checkpoint\": \"%s\", \"step\": %" PRId64 ", \"file\": \"%s\", \"rows\": %" PRId64
               ", \"loss\": %.17g",
               r->checkpoint, r->step, r->store, e->sequences, e->loss);
    else
        printf("%s (step %" PRId64 ")\non %s: %" PRId64 " rows\n\n  %-12s %8.4f\n", r->checkpoint, r->step,
               r->store, e->sequences, "loss", e->loss);
    for (int i = 0; i < e->n_scores; i++)
        printf(json ? ", \"%s\": %.9g" : "  %-12s %8.4f\n", e->scores[i].name, e->scores[i].value);
    if (json) puts("}");
}

static void print_table(const report *r)
{
    char tokens[32];
    printf("%s (step %" PRId64 ")\non %s: %s %ss in %" PRId64 " sequences\n\n", r->checkpoint, r->step, r->store,
           m2_human_count(tokens, (double)r->result.tokens), r->unit, r->result.sequences);
    printf("  loss           %8.4f  nats per %s\n", r->result.loss, r->unit);
    printf("  perplexity     %8.3f  per %s\n", exp(r->result.loss), r->unit);
    if (!isnan(r->bits_per_byte)) printf("  bits per byte  %8.4f\n", r->bits_per_byte);
    printf("  top-1          %8.2f  %% of %ss\n", 100 * r->result.top1, r->unit);
}

static m2_status evaluate(const m2_restored *m, const m2_ranks *ranks, const m2_tokens *data, report *r)
{
    m2_eval *e = NULL;
    int64_t most = m->cfg.train_micro ? m->cfg.train_micro : m->cfg.train_batch / ranks->comm->size;
    m2_eval_spec spec = {.store = m->cfg.data_val, .tokenizer = m->manifest.tokenizer};
    if (data->sequences && most > data->sequences) most = data->sequences;
    M2_TRY(m2_fit_eval(&m->cfg, ranks, most, &spec.micro));
    m2_status st = m2_eval_open(&m->cfg, ranks, &spec, &e);
    if (st == M2_OK) st = m2_restore_params(m, ranks, m2_eval_program(e));
    st = m2_comm_agree(ranks->comm, st);
    if (st == M2_OK) st = m2_eval_run(e, &r->result);
    m2_eval_close(&e);
    return st;
}

m2_status tool_eval(int argc, char **argv)
{
    int json = 0;
    const m2_flag flags[] = {{"--json", M2_FLAG_ON, &json}, {NULL, M2_FLAG_ON, NULL}};
    M2_TRY(m2_flags_take(&argc, argv, flags));
    if (argc < 2)
        return m2_fail(M2_USAGE, "which checkpoint? m2 eval CHECKPOINT [KEY=VALUE ...], see m2 help eval");
    m2_restored m;
    m2_ranks ranks = {0};
    m2_tokens data = {0};
    m2_status st = m2_restore(argv[1], argc - 2, argv + 2, &m);
    const m2_glue_task *task = st == M2_OK ? m2_task_of(&m.cfg) : NULL;
    if (st == M2_OK && !task) st = m2_tokens_open(&m.cfg, "data.val", m.cfg.data_val, &data);
    if (st == M2_OK && !task)
        st = m2_tokens_expect(&data, m.cfg.data_val, m.manifest.tokenizer, "the checkpoint");
    if (st == M2_OK) st = m2_ranks_open(&m.cfg, &ranks);
    report r = {.checkpoint = m.manifest.folder, .store = m.cfg.data_val, .step = m.manifest.step};
    if (st == M2_OK) st = evaluate(&m, &ranks, &data, &r);
    if (st == M2_OK && ranks.comm->rank == 0) {
        double bytes_per_token = (double)data.info.bytes / (double)data.info.tokens;
        int causal = !strcmp(m2_model_task(&m.cfg), "causal") && data.info.bytes > 0;
        r.unit = strcmp(m2_model_task(&m.cfg), "mlm") ? "token" : "hidden token";
        r.bits_per_byte = causal ? r.result.loss / log(2) / bytes_per_token : (double)NAN;
        if (r.result.n_scores)
            print_scores(&r, json);
        else if (json)
            print_json(&r);
        else
            print_table(&r);
    }
    m2_ranks_close(&ranks);
    m2_tokens_free(&data);
    m2_restored_free(&m);
    return st;
}
