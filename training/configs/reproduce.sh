#!/usr/bin/env bash
# Trains the shipped models of real faces anew, with all that they build on, into reproduced/; given again after a stop it goes on.
#
#   bash training/configs/reproduce.sh                    all five: about 31 hours on two cores (docs/results.md has each step's time)
#   bash training/configs/reproduce.sh ferplus-cnn        one of them, and what it builds on
#   bash training/configs/reproduce.sh --steps [NAME...]  says what would be made, in this order
#
# Needs an environment with fer_keras, and FER2013 with FER+'s votes, prepared by
#   python -m training.prepare --source fer2013 --csv fer2013.csv --votes fer2013new.csv --out data/prepared/ferplus
# and for fer2013-cnn and fer2013-ensemble also
#   python -m training.prepare --source fer2013 --csv fer2013.csv --out data/prepared/fer2013
# data/prepared/drawn-seed1 it makes itself.
set -euo pipefail
cd "$(dirname "$0")/../.."
export TF_ENABLE_ONEDNN_OPTS="${TF_ENABLE_ONEDNN_OPTS-1}"
trap 'exit 130' INT # training.train ends well after Ctrl-C, having kept what it has: the next step must not begin with that
into=reproduced
configs=training/configs

# Ensembles: data, members and options. All else is a training, whose config says what it builds on.
ensemble_of() {
    case "$1" in
        ferplus-teacher) echo "ferplus ferplus-cnn-longer ferplus-cnn-start --mirror" ;;
        ferplus-three) echo "ferplus ferplus-cnn-start ferplus-cnn-longer ferplus-cnn-robust --mirror" ;;
        ferplus-five)
            echo "ferplus ferplus-densenet121-large ferplus-cnn-large ferplus-cnn-longer ferplus-cnn-robust ferplus-cnn-start"
            ;;
        ferplus-three2) echo "ferplus ferplus-cnn-mean ferplus-cnn-longer ferplus-cnn-start --mirror" ;;
        ferplus-ensemble) echo "ferplus ferplus-cnn ferplus-densenet121 ferplus-cnn-start --mirror --half" ;;
        fer2013-teacher) echo "fer2013 fer2013-cnn-start fer2013-cnn-wide --mirror" ;;
        fer2013-ensemble) echo "fer2013 fer2013-cnn-taught fer2013-cnn-other --mirror --half" ;;
        *) return 1 ;;
    esac
}

# Means of the weights of two trainings.
mean_of() {
    case "$1" in
        ferplus-cnn-mean) echo "ferplus-cnn-large ferplus-cnn" ;;
        ferplus-densenet121-mean) echo "ferplus-densenet121-large ferplus-densenet121-views" ;;
        *) return 1 ;;
    esac
}

needs() {
    if [ -f "$configs/$1.yaml" ]; then
        sed -nE 's/^(weights|teacher): *//p' "$configs/$1.yaml" | grep -vx none || true
    elif mean_of "$1" >/dev/null; then
        mean_of "$1" | tr ' ' '\n'
    else
        ensemble_of "$1" | tr ' ' '\n' | sed -e 1d -e '/^--/d'
    fi
}

steps=()
plan() { # a step after all that it builds on, each once
    local need
    case " ${steps[*]-} " in *" $1 "*) return ;; esac
    for need in $(needs "$1"); do plan "$need"; done
    steps+=("$1")
}

say_only=
if [ "${1-}" = --steps ]; then
    say_only=yes
    shift
fi
shipped="ferplus-cnn ferplus-ensemble fer2013-cnn fer2013-ensemble ferplus-densenet121"
[ $# -gt 0 ] || set -- $shipped
for name in "$@"; do
    if [ ! -f "$configs/$name.yaml" ] && ! mean_of "$name" >/dev/null && ! ensemble_of "$name" >/dev/null; then
        echo "$name is no step; take some of ${shipped// /, }" >&2
        exit 2
    fi
    plan "$name"
done
if [ -n "$say_only" ]; then
    printf '%s\n' "${steps[@]}"
    exit
fi

for name in "${steps[@]}"; do # some are needed after hours only
    data="$(sed -n 's/^data: *//p' "$configs/$name.yaml" 2>/dev/null || true)"
    if [ -n "$data" ] && [ "$data" != data/prepared/drawn-seed1 ] && [ ! -f "$data/dataset.json" ]; then
        echo "$data is not there, which $name needs; the top of this script says how it is made" >&2
        exit 2
    fi
done

train() {
    local run="runs/$into/$1"
    if [ -f "$into/$1/metadata.json" ] && ! grep -q '"interrupted": true' "$run/metrics.json" 2>/dev/null; then
        echo "$into/$1 is there"
    elif [ -f "$run/config.json" ]; then
        python -m training.train --resume "$run"
    else
        rm -rf "$run" # of one that was killed while it was being made
        if [ "$1" = drawn-densenet121 ] && [ ! -f data/prepared/drawn-seed1/dataset.json ]; then
            python -m training.prepare --source synthetic --count 4000 --seed 1 --fractions 80,10,10 --out data/prepared/drawn-seed1
        fi
        python -m training.train --config "$configs/$1.yaml" --out "$run" --export "$1" --saved-models "$into"
    fi
}

ensemble() {
    local name="$1" word data join=() options=()
    for word in $(ensemble_of "$name"); do
        case "$word" in
            --*) options+=("$word") ;;
            *) if [ -z "${data-}" ]; then data="$word"; else join+=("$into/$word"); fi ;;
        esac
    done
    rm -rf "runs/$into/$name" # an ensemble of what is trained already takes minutes: nothing of it is kept
    python -m training.ensemble --data "data/prepared/$data" --combine mean --out "runs/$into/$name" --export "$name" \
        --saved-models "$into" --join "${join[@]}" ${options[@]+"${options[@]}"}
}

mean() {
    local name="$1" run runs=()
    for run in $(mean_of "$name"); do runs+=("runs/$into/$run"); done
    rm -rf "runs/$into/$name"
    python -m training.average "${runs[@]}" --out "runs/$into/$name" --export "$name" --saved-models "$into"
}

for name in "${steps[@]}"; do
    echo "== $name"
    if [ -f "$configs/$name.yaml" ]; then
        train "$name"
    elif [ -f "$into/$name/metadata.json" ]; then
        echo "$into/$name is there"
    elif mean_of "$name" >/dev/null; then
        mean "$name"
    else
        ensemble "$name"
    fi
done

python - "$into" "$@" <<'END'
import json, sys
from pathlib import Path

def figure(folder):
    one = json.loads((Path(folder) / "metadata.json").read_text())["figures"][0]
    low, high = one["accuracy_ci95"]
    return f"accuracy {one['accuracy']:.3f} ({low:.3f} to {high:.3f}), macro F1 {one['macro_f1']:.3f}, n {one['n']:,}"

for name in sys.argv[2:]:
    print(f"{name}: {figure(Path(sys.argv[1]) / name)}")
    if (Path("saved_models") / name / "metadata.json").is_file():
        print(f"    the shipped one: {figure(Path('saved_models') / name)}")
END
