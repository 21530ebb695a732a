#!/usr/bin/env bash
# curl with its own retries. Usage: curl_client.sh URL COUNT OUT
set -euo pipefail
url=$1 count=$2 out=$3

# send KEY FILE: sends until there is an answer. One that was cut within its headers has no body,
# and curl takes it for whole.
send() {
    : >"$2"
    until [[ $(curl --silent --retry 20 --retry-all-errors --retry-connrefused --retry-delay 1 \
        --retry-max-time 30 --max-time 20 --output "$2" --write-out '%{http_code}' "$url" \
        -H "Authorization: Bearer demo-token" -H "Content-Type: application/json" \
        -H "Idempotency-Key: $1" \
        -d "{\"first_name\":\"Load\",\"email\":\"$1@example.com\"}") == 201 && -s $2 ]]; do : >"$2"; done
}

# client FIRST: every eighth key from FIRST on.
client() {
    local number key
    for ((number = $1; number < count; number += 8)); do
        key=curl-$number
        send "$key" "$out.$1.a"
        send "$key" "$out.$1.b"
        if ! cmp --silent "$out.$1.a" "$out.$1.b"; then
            echo "$key: two answers: $(<"$out.$1.a") $(<"$out.$1.b")" >&2
            return 1
        fi
        printf '%s %s\n' "$key" "$(<"$out.$1.a")" >>"$out.$1"
    done
}

pids=()
trap 'kill "${pids[@]}" 2>/dev/null; exit 1' TERM
for first in {0..7}; do
    client "$first" &
    pids+=($!)
done
for pid in "${pids[@]}"; do wait "$pid"; done
cat "$out".[0-7] >"$out"
