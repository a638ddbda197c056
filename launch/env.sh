# env.sh - the environment m2's ranks want, each variable with its reason. Sourced by local.sh and train.sbatch; a value the
# user has set wins. Nothing here changes results, only speed, messages and what happens on failure.
want() { [ -n "${!1+set}" ] || export "$1=$2"; } # want NAME VALUE

# ---- Open MPI
# One paragraph per problem, not one per rank.
want OMPI_MCA_orte_base_help_aggregate 1
# A rank that exits with a failure ends the job: the others would wait for it in a collective.
want OMPI_MCA_orte_abort_on_non_zero_status 1
# Ranks of one node copy straight out of each other's memory (process_vm_readv). A container's system call filter may
# forbid that, and then every large message fails with "Read -1, expected ..., errno = 1": through shared memory there.
if grep -q '^Seccomp:[[:space:]]*2' /proc/self/status 2>/dev/null; then
    want OMPI_MCA_btl_vader_single_copy_mechanism none
fi

# ---- NCCL
# Its errors say "unhandled system error"; at this level the line before says which.
want NCCL_DEBUG WARN

# ---- CPU threads
# Waiting OpenMP threads sleep instead of spinning: ranks may share cores with each other and with loader threads.
want OMP_WAIT_POLICY passive
