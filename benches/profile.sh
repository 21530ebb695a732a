#!/usr/bin/env bash
# Profiles what the benches time, and prints a Markdown table of the top costs of each: where the
# samples of the whole process fell, by thread and symbol. Needs `perf` (Debian: linux-perf).
#
#   benches/profile.sh [SECONDS [SYMBOLS]] > docs/bench/profiles.md
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-5} symbols=${2:-12}
scratch=$(mktemp -d)
trap 'rm -rf "$scratch"' EXIT
export CARGO_PROFILE_BENCH_DEBUG=line-tables-only

# The program of a bench.
program() {
    cargo bench --bench "$1" --no-run 2>&1 | sed -n 's/^ *Executable .*(\(.*\))$/\1/p'
}

# bench | what criterion calls it | title
rows='claim|claim\+complete/durability=buffered threads=1|A pair, `Buffered`, 1 thread
claim|claim\+complete/durability=buffered threads=2|A pair, `Buffered`, 2 threads
claim|claim/durability=synced threads=1|A claim, `Synced`, 1 thread
claim|claim\+complete/durability=synced threads=64|A pair, `Synced`, 64 threads
lookup|lookup/replay|A replay of a random key
lookup|lookup/miss|A lookup of an absent key
recovery|open/after=kill|An open after kill -9
expiry|expire|An expiry of a thirtieth of the keys'

echo '# Profiles'
echo
echo "Shares of the samples of the process, \`perf record -e cpu-clock\`, $seconds s of each bench; making"
echo "keys and responses is in them, and filling the store where a bench does that. A thread is named"
echo "after what it does: \`oncelog-blocks\` writes zeros ahead, \`oncelog-commit\` syncs,"
echo "\`oncelog-upkeep\` grows the index and writes hint files; a caller is what calls the store."
while IFS='|' read -r bench filter title; do
    echo "profiling: $title" >&2
    perf record -q -e cpu-clock -F 1999 -o "$scratch/data" -- \
        "$(program "$bench")" --bench --profile-time "$seconds" "$filter" >"$scratch/log" 2>&1 ||
        { cat "$scratch/log" >&2; exit 1; }
    perf report -i "$scratch/data" -g none --no-children --sort comm,symbol \
        --stdio 2>/dev/null >"$scratch/report"
    [ "$(grep -c '%' "$scratch/report")" -gt 5 ] || { echo "no samples of: $title" >&2; exit 1; }
    printf '\n## %s\n\n| share | thread | symbol |\n|---:|---|---|\n' "$title"
    awk -v most="$symbols" '/^ +[0-9.]+%/ && shown < most {
        share = $1; thread = $2 ~ /^oncelog/ ? $2 : "caller"; where = $3; $1 = $2 = $3 = ""; sub(/^ +/, "");
        sub(/ +- +-.*$/, ""); gsub(/\|/, "\\|");
        printf "| %s | `%s` | `%s`%s |\n", share, thread, $0, where == "[k]" ? ", kernel" : "";
        shown++
    }' "$scratch/report"
done <<<"$rows"
echo
echo "Measured $(date +%F): \`benches/profile.sh $seconds $symbols\`."
