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

# What the site decides, and the names in the words of its `ip link`, `ibstat` and `nvidia-smi topo -m`. Set them where you submit; they
# reach the ranks through Slurm and mpirun -x. Not set here, because each library chooses well on most machines.
#   NCCL_SOCKET_IFNAME=eth0,ib0   interface of the first contact: when ranks hang at the start, or pick a docker0 that leads nowhere
#   NCCL_IB_HCA=mlx5_0,mlx5_1     InfiniBand ports to use: when others of the node are for storage
#   NCCL_IB_DISABLE=1             TCP instead of InfiniBand: to find out whether the fabric is at fault
#   NCCL_P2P_DISABLE=1            GPUs of a node through host memory: the same for NVLink (m2 doctor: GPU links)
#   NCCL_NVLS_ENABLE=0            no sums inside NVSwitch: where its multicast is not set up, ncclCommInitRank fails
#   NCCL_DEBUG=INFO               which way every pair of GPUs takes
#   NCCL_ALGO, NCCL_PROTO         forced algorithms can change the last bits of sums; left alone
#   OMPI_MCA_btl_tcp_if_include=eth0    the same as NCCL_SOCKET_IFNAME, for what m2 sends through MPI
#   OMPI_MCA_pml=ucx|ob1          which of Open MPI's transports; ucx where it was built with it, ob1 for shared memory and TCP
#   UCX_NET_DEVICES=mlx5_0:1      ports that UCX uses;  UCX_TLS=rc,sm,self   its transports;  UCX_LOG_LEVEL=info  which it took

# ---- CPU threads
# Waiting OpenMP threads sleep instead of spinning: ranks may share cores with each other and with loader threads.
want OMP_WAIT_POLICY passive
