#!/usr/bin/env bash
#SBATCH --job-name=optlayers
#SBATCH --array=0-15
#SBATCH --gpus=1
#SBATCH --cpus-per-task=8
#SBATCH --mem=64G
#SBATCH --time=04:00:00
#SBATCH --output=optlayers-%A_%a.log
#SBATCH --open-mode=append
# Workers of one study as a Slurm array job: each task is one worker with one GPU.
#
#     scripts/optlayers --version                # once, where the nodes see it: makes .venv
#     scripts/optlayers fetch --study full       # once: the nodes may have no network
#     export OPTLAYERS_STORAGE=postgresql+psycopg://user:password@host/optlayers
#     sbatch deploy/slurm_array.sh --study full
#
# Submit it from the repository's folder. sbatch passes the environment on, so no command contains the
# password. A worker stops two minutes before the job ends and returns its layer sets to the queue; submit the job again until `optlayers status` says that the study is done.
set -euo pipefail
MARGIN_MINUTES=2
cd "${SLURM_SUBMIT_DIR:-.}"
optlayers="${OPTLAYERS:-.venv/bin/optlayers}"
if [ ! -x "$optlayers" ]; then
  echo "$optlayers does not exist; run scripts/optlayers --version in $PWD first" >&2
  exit 2
fi
if [ -z "${OPTLAYERS_STORAGE:-}" ]; then
  echo "OPTLAYERS_STORAGE is not set; export the URL of a database that all nodes reach" >&2
  exit 2
fi
limit=()
# Slurm 22.05 and newer say when the job ends.
if [ -n "${SLURM_JOB_END_TIME:-}" ]; then
  minutes=$(((SLURM_JOB_END_TIME - $(date +%s)) / 60 - MARGIN_MINUTES))
  limit=(--max-minutes "$((minutes > 0 ? minutes : 0))")
fi
# exec, so that Slurm's signals reach the worker itself. (Bash before 4.4 calls an empty array unset.)
exec "$optlayers" worker --wait "$@" ${limit[@]+"${limit[@]}"}
