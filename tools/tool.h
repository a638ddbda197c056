/* tool.h - the subcommands of `m2`. A tool is a file tools/NAME.c with a function and a usage text, and a row in
 * tools.def; dispatch, `m2 --help`, `m2 help NAME` and `m2 NAME --help` follow from the row. */
#ifndef M2_TOOLS_TOOL_H
#define M2_TOOLS_TOOL_H

#include "kernels/base/status.h"
#include <stdint.h>

typedef struct m2_tool {
    const char *name;
    const char *summary; /* half a line */
    const char *usage;   /* `m2 help NAME`: several lines, <= 100 columns, ends with a newline */
    /* argv[0] is the tool's name, argv[argc] NULL. A failure's message is printed by main, nowhere else, and its code is
     * the exit code. A tool that runs on several ranks calls m2_log_setup with its rank first: only rank 0 prints. */
    m2_status (*run)(int argc, char **argv);
} m2_tool;

#define TOOL(name, summary)                                                                                  \
    m2_status tool_##name(int argc, char **argv);                                                            \
    extern const char tool_##name##_usage[];
#include "tools/tools.def"
#undef TOOL

int m2_tools(const m2_tool **table);           /* returns their number */
const m2_tool *m2_tool_find(const char *name); /* NULL if there is none */
/* Prints a page of help: no words: the overview; else a tool, "exit-codes", or "options" and a prefix of their keys. */
m2_status m2_help(int words, char **word) M2_MUST_USE;
m2_status m2_tool_unknown(const char *name) M2_MUST_USE; /* M2_USAGE with the nearest name */

/* ---- tools with subjects: m2 inspect plan, m2 bench step ----------------------------------------------------------- */
typedef struct m2_subject {
    const char *name;
    const char *usage;                       /* NULL: it prints its own when asked with --help */
    m2_status (*run)(int argc, char **argv); /* argv[0] is "inspect plan" */
} m2_subject;

/* Runs the subject that argv[1] names. subjects ends with a NULL name. */
m2_status m2_subjects_run(int argc, char **argv, const m2_subject *subjects) M2_MUST_USE;

/* ---- flags ------------------------------------------------------------------------------------------------------- */
typedef enum m2_flag_kind {
    M2_FLAG_ON,   /* int: 1 when given */
    M2_FLAG_INT,  /* int64_t, >= 0 */
    M2_FLAG_REAL, /* double */
    M2_FLAG_TEXT  /* const char * */
} m2_flag_kind;

typedef struct m2_flag {
    const char *name; /* "--tokens" */
    m2_flag_kind kind;
    void *value; /* left alone when the flag is not given */
} m2_flag;

struct m2_config;
/* The configuration that argv[1], a file, and the KEY=VALUE words after it describe: what `m2 train` would run. */
m2_status m2_config_take(int argc, char **argv, struct m2_config *out) M2_MUST_USE;

/* Takes flags out of argv in any order ("--tokens 80", "--tokens=80"; "-o" is a name like any other; "--" ends flags) and
 * leaves the other words in argv[1 .. *argc). Unknown flag: M2_USAGE with the nearest name. flags ends with a NULL name. */
m2_status m2_flags_take(int *argc, char **argv, const m2_flag *flags) M2_MUST_USE;

#endif
