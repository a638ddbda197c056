/* hang.c - m2 hang RUN */
#include "parallel/flight.h"
#include "runtime/rundir.h"
#include "tools/tool.h"

#include <stdio.h>

const char tool_hang_usage[] =
    "usage: m2 hang RUN\n"
    "\n"
    "Reads the flight recorders of a run folder, RUN/flight, and says which rank the others wait for, or\n"
    "waited for when the run died: its step, its op, the collective. Then where each rank is or was, since\n"
    "when, and how late it came to collectives on average. The run may live, hang or be dead; its nodes too,\n"
    "as the recorders are in the run folder.\n"
    "\n"
    "A run looks by itself: one that makes no progress for run.hang_timeout seconds, or waits for a rank\n"
    "that is gone, writes the same into RUN/flight/report-START.txt and ends with exit code 71. Then that\n"
    "report is what is told.\n";

/* The report of the rank that ended the job, if one did: with the job, ended those that were only waiting. */
static int told(const m2_rundir *dir, int64_t start)
{
    char path[2 * M2_PATH], line[1024];
    m2_flight_report(path, sizeof path, dir->flight, start);
    FILE *f = fopen(path, "r");
    if (!f) return 0;
    while (fgets(line, sizeof line, f)) fputs(line, stdout);
    fclose(f);
    return 1;
}

m2_status tool_hang(int argc, char **argv)
{
    static const m2_flag none[] = {{NULL, M2_FLAG_ON, NULL}};
    m2_rundir dir;
    m2_flights flights;
    M2_TRY(m2_flags_take(&argc, argv, none));
    if (argc != 2) return m2_fail(M2_USAGE, "m2 hang takes one run folder: m2 hang runs/first");
    M2_TRY(m2_rundir_paths(argv[1], &dir));
    m2_status st = m2_flights_read(dir.flight, &flights);
    if (st == M2_OK && !told(&dir, flights.start)) m2_flights_print(&flights, stdout);
    m2_flights_free(&flights);
    return st;
}
