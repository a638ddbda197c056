/* help.c - m2 help: pages made from the tables of tools, options and exit codes. */
#include "runtime/config.h"
#include "tools/tool.h"

#include <stdio.h>
#include <string.h>

static const m2_tool tools[] = {
#define TOOL(name, summary) {#name, summary, tool_##name##_usage, tool_##name},
#include "tools/tools.def"
#undef TOOL
};
enum { TOOLS = sizeof tools / sizeof *tools };

int m2_tools(const m2_tool **table)
{
    *table = tools;
    return TOOLS;
}

const m2_tool *m2_tool_find(const char *name)
{
    for (int i = 0; i < TOOLS; i++)
        if (!strcmp(tools[i].name, name)) return &tools[i];
    return NULL;
}

/* ---- pages: word[0] is the page's own name ----------------------------------------------------------------------- */
static m2_status overview(int words, char **word)
{
    (void)words, (void)word;
    puts("m2 pretrains Monarch Mixer language models: attention-free, sub-quadratic, in C.\n\n"
         "usage: m2 TOOL [arguments]\n");
    for (int i = 0; i < TOOLS; i++) printf("  %-9s %s\n", tools[i].name, tools[i].summary);
    puts("\n"
         "  m2 help TOOL              how to use a tool (also: m2 TOOL --help)\n"
         "  m2 help options [PREFIX]  everything a config file or key=value can set\n"
         "  m2 help exit-codes        what the exit code tells a script or launcher\n"
         "  m2 --version\n\n"
         "A first run, on two cores:\n"
         "  m2 prepare --train-tokenizer 4096 --out book.h5 book.txt\n"
         "  mpirun -np 2 m2 train configs/gpt/tiny.yaml data.train=book.h5 run.dir=runs/book\n"
         "  m2 sample runs/book --prompt \"Once upon a time\"");
    return M2_OK;
}

static m2_status options(int words, char **word)
{
    if (words > 2)
        return m2_fail(M2_USAGE, "m2 help options takes one prefix, such as: m2 help options optim");
    return m2_config_help(stdout, words > 1 ? word[1] : "");
}

static m2_status exit_codes(int words, char **word)
{
    (void)words, (void)word;
    puts("Exit codes of every tool. Slurm scripts requeue on 71 and 75 only.\n");
#define ROW(name, code, help) printf("  %3d  %s\n", code, help);
    M2_STATUS_TABLE(ROW)
#undef ROW
    return M2_OK;
}

static const struct {
    const char *name;
    m2_status (*print)(int words, char **word);
} pages[] = {{"options", options}, {"exit-codes", exit_codes}};
enum { PAGES = sizeof pages / sizeof *pages };

/* ---- lookup ------------------------------------------------------------------------------------------------------ */
static m2_status unknown(const char *what, const char *name, int n)
{
    const char *names[TOOLS + PAGES];
    for (int i = 0; i < TOOLS; i++) names[i] = tools[i].name;
    for (int i = 0; i < PAGES; i++) names[TOOLS + i] = pages[i].name;
    const char *near = m2_nearest_name(name, names, n);
    if (!near) return m2_fail(M2_USAGE, "there is no %s '%s'; m2 --help lists what there is", what, name);
    return m2_fail(M2_USAGE, "there is no %s '%s'; did you mean '%s'?", what, name, near);
}

m2_status m2_tool_unknown(const char *name)
{
    return unknown("subcommand", name, TOOLS);
}

m2_status m2_help(int words, char **word)
{
    if (words < 1) return overview(words, word);
    for (int i = 0; i < PAGES; i++)
        if (!strcmp(pages[i].name, word[0])) return pages[i].print(words, word);
    const m2_tool *tool = m2_tool_find(word[0]);
    if (!tool) return unknown("help on", word[0], TOOLS + PAGES);
    if (words > 1) return tool->run(3, (char *[]){word[0], word[1], "--help", NULL});
    fputs(tool->usage, stdout);
    return M2_OK;
}

const char tool_help_usage[] = "usage: m2 help [TOOL [SUBJECT] | options [PREFIX] | exit-codes]\n";

m2_status tool_help(int argc, char **argv)
{
    return m2_help(argc - 1, argv + 1);
}
