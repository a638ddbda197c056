/* inspect.c - m2 inspect SUBJECT PATH */
#include "tools/inspect.h"
#include "tools/tool.h"

const char tool_inspect_usage[] =
    "usage: m2 inspect checkpoint PATH          tensors with statistics, where the run stood, is it whole?\n"
    "       m2 inspect store PATH               documents, tokens and tokenizer of a token store\n"
    "       m2 inspect plan CONFIG [KEY=VALUE]  parameters, memory, FLOPs, every call; for any number of ranks\n"
    "\n"
    "m2 inspect SUBJECT --help lists the flags of each.\n";

m2_status tool_inspect(int argc, char **argv)
{
    static const m2_subject subjects[] = {{"checkpoint", inspect_checkpoint_usage, inspect_checkpoint},
                                          {"store", inspect_store_usage, inspect_store},
                                          {"plan", inspect_plan_usage, inspect_plan},
                                          {NULL, NULL, NULL}};
    return m2_subjects_run(argc, argv, subjects);
}
