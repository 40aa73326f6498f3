#!/bin/sh
# A parameter sweep: one job for each combination, all queued at once; skyq runs as many as fit.
#
#   sh sample_tasks/sweep.sh               (SKYQ names the program if it isn't on PATH)
#   skyq queue local
#   skyq logs local -s 'sweep-*'
#   skyq cancel local 'sweep-*'
set -e
skyq=${SKYQ:-skyq}
for lr in 1e-2 1e-3; do
    for seed in 0 1 2; do
        $skyq exec local -q -d -n "sweep-lr$lr-seed$seed" --gpus "${GPUS:-GPU:0.5}" \
            --env LR=$lr --env SEED=$seed \
            -- 'echo "training with lr=$LR seed=$SEED on device $CUDA_VISIBLE_DEVICES"'
    done
done
