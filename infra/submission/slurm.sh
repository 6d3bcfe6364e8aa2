#!/bin/bash
#SBATCH --job-name={{ name }}
#SBATCH --nodes={{ nodes }}
#SBATCH --ntasks-per-node=1
#SBATCH --cpus-per-task={{ cpus }}
#SBATCH --mem={{ memory }}G
{% if gpus %}
#SBATCH --gpus-per-node={{ gpus }}
{% endif %}
#SBATCH --exclusive
#SBATCH --requeue
#SBATCH --open-mode=append
#SBATCH --output={{ name }}-%j.log

# Submit it with `sbatch` from the folder of the recipe, which all nodes must see, in an environment that has
# fourmill[cluster]. Variables of the shell reach all nodes; the recipe's places need: {{ variables }}.
# A job that is preempted or requeued goes on where it was. `ray symmetric-run` ends with `ray stop`, which ends every
# Ray of this user on the node: therefore --exclusive.
set -euo pipefail

export RAY_AUTH_MODE=token
if [ -z "${RAY_AUTH_TOKEN:-}" ] && [ -z "${RAY_AUTH_TOKEN_PATH:-}" ] && [ ! -s "$HOME/.ray/auth_token" ]; then
  ray get-auth-token --generate > /dev/null
fi
# Nodes may take minutes to start; Ray gives them half of one.
export RAY_SYMMETRIC_RUN_CLUSTER_WAIT_TIMEOUT=600 RAY_raylet_start_wait_time_s=120

# awk reads to the end: a reader that stops early (head) ends scontrol, and with it this script.
head=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | awk 'NR == 1')
address=$(srun --nodes=1 --ntasks=1 --nodelist="$head" hostname --ip-address | awk '{print $1}')
# Above the ports of Ray's workers (10002 to 19999), and another one for each job.
port=$((20000 + SLURM_JOB_ID % 10000))

srun --nodes="$SLURM_JOB_NUM_NODES" --ntasks="$SLURM_JOB_NUM_NODES" \
  ray symmetric-run --address "$address:$port" --min-nodes "$SLURM_JOB_NUM_NODES" \
  --num-cpus="$SLURM_CPUS_PER_TASK" --disable-usage-stats -- \
  {{ command }}
