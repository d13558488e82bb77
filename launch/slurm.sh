#!/bin/bash
# Slurm：在一台或多台机器上训练。--out 要在各节点共享的文件系统上；再提交同一条命令，从最近的检查点接着走。
# Slurm: training on one machine or several. --out must be on a file system that all nodes share; the same command again goes on.
#
#   sbatch launch/slurm.sh pretrain --config pretrain.yaml --out models/zh
#   sbatch --nodes=4 --gpus-per-node=4 launch/slurm.sh sft --config sft.yaml --out models/chat
#
# 虚拟环境：先 export PATH="$PWD/.venv/bin:$PATH" 再提交。 Virtual environment: put its bin first in PATH before submitting.

#SBATCH --job-name=hanlin
#SBATCH --nodes=2
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --time=24:00:00
#SBATCH --signal=B:USR1@120
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output=hanlin-%j.log

processes=${SLURM_GPUS_ON_NODE:-1}
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)
export OMP_NUM_THREADS=${OMP_NUM_THREADS:-$(((${SLURM_CPUS_PER_TASK:-1} + processes - 1) / processes))}
export TORCH_ELASTIC_SHUTDOWN_TIMEOUT=100 # 写检查点的时间，缺省只有 30 秒 · time to write a checkpoint; 30 s unless said

# 时限前 120 秒：各进程做完当前一步、写检查点。发给 srun 的 SIGTERM 会变成对任务的 SIGKILL，所以由 scancel 直接发给任务。
# 120 s before the limit: finish the step, write a checkpoint. srun turns SIGTERM into SIGKILL for its tasks, so scancel tells them.
ending=
trap 'ending=1; scancel --signal=TERM "$SLURM_JOB_ID"' USR1

srun --kill-on-bad-exit=0 torchrun --nnodes="$SLURM_NNODES" --nproc-per-node="$processes" --max-restarts=3 \
  --rdzv-backend=c10d --rdzv-id="$SLURM_JOB_ID-${SLURM_RESTART_COUNT:-0}" --rdzv-endpoint="$head:$((20000 + SLURM_JOB_ID % 10000))" \
  -m hanlin "$@" &
step=$!
wait "$step"
code=$?
while kill -0 "$step" 2>/dev/null; do # 信号打断了 wait · a signal interrupted wait
  wait "$step"
  code=$?
done

[ -n "$ending" ] && [ "$code" -ne 0 ] && scontrol requeue "$SLURM_JOB_ID"
exit "$code"
