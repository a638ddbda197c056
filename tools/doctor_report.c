/* doctor_report.c - findings of many ranks, told once: what is the same everywhere, what is not and where. */
#include "tools/doctor.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

static int same(const finding *a, const finding *b)
{
    return a->verdict == b->verdict && !strcmp(a->what, b->what) && !strcmp(a->text, b->text) && !strcmp(a->unit, b->unit);
}

/* Rows like this one: how many before (rank, row), where they are, the range of their values. */
typedef struct likes {
    int before, ranks, nodes;
    double least, most;
    const char *worst; /* the node of the least value */
    char where[256];   /* the nodes' names */
} likes;

static void count(likes *l, const findings *f, const finding *row)
{
    l->ranks++;
    if (!(row->value >= l->least)) l->least = row->value, l->worst = f->node;
    if (!(row->value <= l->most)) l->most = row->value;
    char wrapped[sizeof l->where + 2], name[sizeof f->node + 2];
    snprintf(wrapped, sizeof wrapped, " %s,", l->where);
    snprintf(name, sizeof name, " %s,", f->node);
    if (strstr(wrapped, name)) return;
    size_t used = strlen(l->where);
    snprintf(l->where + used, sizeof l->where - used, "%s%s", l->nodes++ ? ", " : "", f->node);
}

static likes gather(const findings *f, int n, int rank, int row)
{
    likes l = {.least = NAN, .most = NAN};
    for (int i = 0; i < n; i++)
        for (int k = 0; k < f[i].n; k++) {
            if (!same(&f[i].row[k], &f[rank].row[row])) continue;
            if (i < rank || (i == rank && k < row)) l.before++;
            count(&l, &f[i], &f[i].row[k]);
        }
    return l;
}

static int count_nodes(const findings *f, int n)
{
    int nodes = 0;
    for (int i = 0; i < n; i++) {
        int seen = 0;
        for (int k = 0; k < i; k++) seen |= !strcmp(f[i].node, f[k].node);
        nodes += !seen;
    }
    return nodes;
}

static void print_row(const finding *row, const likes *l, int nodes)
{
    static const char *const marks[] = {[FIT] = "", [DOUBTFUL] = "doubtful: ", [UNFIT] = "unfit: "};
    printf("  %-14s %s", row->what, marks[row->verdict]);
    if (l->least == l->most) printf("%.4g %s ", l->least, row->unit);
    if (l->least < l->most) printf("%.4g to %.4g %s ", l->least, l->most, row->unit);
    printf("%s", row->text);
    if (l->least < l->most / 2 && l->nodes > 1) printf(" (least: %s)", l->worst);
    if (nodes > 1) printf("  [%s]", l->nodes == nodes ? "all" : l->where);
    putchar('\n');
}

typedef struct list {
    int n;
    char names[1024]; /* "node3,node4" */
} list;

/* A node is named once, with its first reason. */
static void add(list *l, const findings *f, const finding *row, char *why, size_t room)
{
    char wrapped[sizeof l->names + 2], name[sizeof f->node + 2];
    snprintf(wrapped, sizeof wrapped, ",%s,", l->names);
    snprintf(name, sizeof name, ",%s,", f->node);
    if (strstr(wrapped, name)) return;
    size_t used = strlen(l->names), told = strlen(why);
    snprintf(l->names + used, sizeof l->names - used, "%s%s", l->n ? "," : "", f->node);
    snprintf(why + told, room - told, "%s%s (%s: %s)", l->n++ ? ", " : "", f->node, row->what, row->text);
}

/* The unfit nodes, in *l, and why. */
static void list_unfit(const findings *f, int n, list *l, char *why, size_t room)
{
    *why = 0;
    for (int i = 0; i < n; i++)
        for (int k = 0; k < f[i].n; k++)
            if (f[i].row[k].verdict == UNFIT) add(l, &f[i], &f[i].row[k], why, room);
}

int doctor_report(const findings *f, int n, char *why, size_t room)
{
    list unfit = {.n = 0};
    int nodes = count_nodes(f, n);
    for (int i = 0; i < n; i++)
        for (int k = 0; k < f[i].n; k++) {
            likes l = gather(f, n, i, k);
            if (!l.before) print_row(&f[i].row[k], &l, nodes);
        }
    list_unfit(f, n, &unfit, why, room);
    if (unfit.n) printf("unfit nodes: %s\n", unfit.names);
    return unfit.n;
}

static json_t *json_row(const finding *row)
{
    static const char *const names[] = {[FIT] = "fit", [DOUBTFUL] = "doubtful", [UNFIT] = "unfit"};
    json_t *j = json_pack("{s:s, s:s, s:s}", "what", row->what, "verdict", names[row->verdict], "text", row->text);
    if (isfinite(row->value)) json_object_set_new(j, "value", json_real(row->value));
    if (*row->unit) json_object_set_new(j, "unit", json_stringn(row->unit, strcspn(row->unit, ":")));
    return j;
}

int doctor_report_json(const char *stage, const findings *f, int n, char *why, size_t room)
{
    list unfit = {.n = 0};
    list_unfit(f, n, &unfit, why, room);
    json_t *nodes = json_array(), *ranks = json_array();
    for (const char *name = unfit.names; *name; name += strcspn(name, ","), name += *name == ',')
        json_array_append_new(nodes, json_stringn(name, strcspn(name, ",")));
    for (int i = 0; i < n; i++) {
        json_t *rows = json_array();
        for (int k = 0; k < f[i].n; k++) json_array_append_new(rows, json_row(&f[i].row[k]));
        json_array_append_new(ranks, json_pack("{s:s, s:o}", "node", f[i].node, "findings", rows));
    }
    json_t *root = json_pack("{s:s, s:b, s:o, s:o}", "stage", stage, "fit", !unfit.n, "unfit", nodes, "ranks", ranks);
    json_dumpf(root, stdout, JSON_REAL_PRECISION(6));
    putchar('\n');
    json_decref(root);
    return unfit.n;
}
