#!/usr/bin/env bash
# Shows, with curl, what the contacts_api example promises, kill -9 included.
# Needs bash, curl 7.84 or later, and cargo. Exits non-zero if any check does not hold.
set -euo pipefail
cd "$(dirname "$0")/.."

ROUNDS=10
CLIENTS=6

cargo build --quiet --release --example contacts_api
server="${CARGO_TARGET_DIR:-target}/release/examples/contacts_api"
# Clients give up by this clock, which a long build must not have used up.
SECONDS=0
work=$(mktemp -d)
pid=
clients=()
passed=0
failed=0

clean_up() {
    kill -9 $pid ${clients[@]+"${clients[@]}"} 2>/dev/null || true
    wait $pid ${clients[@]+"${clients[@]}"} 2>/dev/null || true
    rm -rf "$work"
}
trap clean_up EXIT

# Each start gets a new port, so clients read the address before each attempt.
start() {
    # Emptied here, not by the child's redirection: the line of the last server must be gone first.
    : >"$work/stdout"
    "$server" --listen 127.0.0.1:0 --data "$work/data" --token secret=acme --token other=globex \
        >>"$work/stdout" 2>>"$work/stderr" &
    pid=$!
    until grep -q '^listening on ' "$work/stdout"; do
        kill -0 "$pid" 2>/dev/null || { cat "$work/stderr" >&2; exit 1; }
        sleep 0.02
    done
    sed -n '1s/^listening on //p' "$work/stdout" >"$work/url.new"
    mv "$work/url.new" "$work/url"
}

crash() {
    kill -9 "$pid"
    wait "$pid" 2>/dev/null || true
}

# send OUT METHOD PATH [CURL ARGUMENT]...: prints the status; headers in OUT.head, body in OUT.body.
send() {
    local out=$1 method=$2 path=$3
    shift 3
    curl --silent --max-time 10 --output "$out.body" --dump-header "$out.head" \
        --write-out '%{http_code}' "$(<"$work/url")/public/v1$path" -X "$method" \
        -H "Authorization: Bearer ${TOKEN:-secret}" -H "Content-Type: application/json" "$@"
}

check() {
    local claim=$1
    shift
    if "$@"; then
        passed=$((passed + 1))
        echo "ok $claim"
    else
        failed=$((failed + 1))
        echo "FAILED $claim"
    fi
}

same() { [[ $1 == "$2" ]]; }
same_bytes() { cmp --silent "$1" "$2"; }
holds() { grep -q "$2" "$1.body"; }
replayed() { grep -qi '^idempotent-replayed: true' "$1.head"; }
fresh() { ! replayed "$1"; }
contacts() {
    TOKEN=${2:-secret} send "$work/find" GET "/contacts?email=$1" >"$work/status"
    grep -o '"id":' "$work/find.body" | wc -l | tr -d ' '
}
id_in() { sed -n 's/.*"id":\([0-9]*\).*/\1/p' "$1.body"; }

avery='{"first_name":"Avery","last_name":"Stone","email":"avery@example.com"}'
import=(POST /contacts -H "Idempotency-Key: contact-import-0001" -d)

start

echo "# a retry returns the stored response"
check "the first request creates (201)" same "$(send "$work/a" "${import[@]}" "$avery")" 201
check "the first answer carries no marker" fresh "$work/a"
check "the retry answers 201" same "$(send "$work/b" "${import[@]}" "$avery")" 201
check "the retry is marked Idempotent-Replayed" replayed "$work/b"
check "the retry returns the same bytes" same_bytes "$work/a.body" "$work/b.body"
check "one contact exists" same "$(contacts avery@example.com)" 1
check "another organization has its own keys" \
    same "$(TOKEN=other send "$work/c" "${import[@]}" "$avery")" 201
check "another organization gets its own contact" fresh "$work/c"
check "and sees only that one" same "$(contacts avery@example.com other)" 1

echo "# another body is a conflict"
check "another body gets 409" same "$(send "$work/c" "${import[@]}" "${avery/Avery/Ivory}")" 409
check "the code is idempotency_conflict" holds "$work/c" '"code":"idempotency_conflict"'
check "it is a problem document" grep -qi '^content-type: application/problem+json' "$work/c.head"
check "one contact exists still" same "$(contacts avery@example.com)" 1

echo "# eight at once run once"
racers=()
for racer in {1..8}; do
    send "$work/race-$racer" POST /contacts -H "Idempotency-Key: race-0001" \
        -d '{"first_name":"Robin","email":"robin@example.com"}' >"$work/race-$racer.status" &
    racers+=($!)
done
wait "${racers[@]}" || true
check "all eight get 201" same "$(cat "$work"/race-*.status)" "$(printf '201%.0s' {1..8})"
for racer in {2..8}; do
    check "number $racer gets the bytes of number 1" \
        same_bytes "$work/race-1.body" "$work/race-$racer.body"
done
check "seven of them are replays" \
    same "$(grep -il '^idempotent-replayed: true' "$work"/race-*.head | wc -l | tr -d ' ')" 7
check "one contact exists" same "$(contacts robin@example.com)" 1

echo "# updates and deletes"
contact=/contacts/$(id_in "$work/a")
rename=(PATCH "$contact" -H "Idempotency-Key: avery-rename-v1" -d '{"last_name":"Hill"}')
check "PATCH answers 200" same "$(send "$work/a" "${rename[@]}")" 200
check "the update is seen" holds "$work/a" '"last_name":"Hill"'
check "PATCH is not a replay" fresh "$work/a"
send "$work/c" PATCH "$contact" -d '{"last_name":"Dale"}' >"$work/status"
check "its retry answers 200" same "$(send "$work/b" "${rename[@]}")" 200
check "its retry is a replay" replayed "$work/b"
check "its retry returns the same bytes" same_bytes "$work/a.body" "$work/b.body"
contacts avery@example.com >"$work/status"
check "its retry did not undo a later update" holds "$work/find" '"last_name":"Dale"'
remove=(DELETE "$contact" -H "Idempotency-Key: avery-delete-v1")
check "DELETE answers 200" same "$(send "$work/a" "${remove[@]}")" 200
check "the contact is gone" same "$(contacts avery@example.com)" 0
check "its retry answers 200" same "$(send "$work/b" "${remove[@]}")" 200
check "its retry is a replay" replayed "$work/b"
check "its retry returns the same bytes" same_bytes "$work/a.body" "$work/b.body"

echo "# requests that do nothing keep no key"
late=(POST /contacts -H "Idempotency-Key: late-0001" -d)
check "no email gets 422" same "$(send "$work/a" "${late[@]}" '{"first_name":"Lee"}')" 422
check "the key is free for the corrected body" \
    same "$(send "$work/a" "${late[@]}" '{"first_name":"Lee","email":"lee@example.com"}')" 201
check "an unknown id gets 404" \
    same "$(send "$work/a" PATCH /contacts/999999 -H "Idempotency-Key: x" -d '{}')" 404

echo "# keys and tokens"
keyless=(POST /contacts -d '{"email":"kim@example.com"}')
check "no key works" same "$(send "$work/a" "${keyless[@]}")" 201
check "no key works twice" same "$(send "$work/b" "${keyless[@]}")" 201
check "without a replay" fresh "$work/b"
check "two contacts exist" same "$(contacts kim@example.com)" 2
check "a wrong token gets 401" same "$(TOKEN=wrong send "$work/a" "${import[@]}" "$avery")" 401
check "an empty key gets 400" \
    same "$(send "$work/a" "${keyless[@]}" -H "Idempotency-Key;")" 400
check "a key with a space gets 400" \
    same "$(send "$work/a" "${keyless[@]}" -H "Idempotency-Key: a b")" 400
check "a key of 256 bytes gets 400" \
    same "$(send "$work/a" "${keyless[@]}" -H "Idempotency-Key: $(printf 'k%.0s' {1..256})")" 400
check "two keys get 400" same "$(send "$work/a" "${keyless[@]}" \
    -H "Idempotency-Key: a" -H "Idempotency-Key: b")" 400

echo "# kill -9 during load, $ROUNDS rounds"
mkdir "$work/answers" "$work/pending"

body_of() { printf '{"first_name":"Load","email":"%s@example.com"}' "$1"; }

# Sends one key after another, each until it is answered with a success.
client() {
    local number=0 key status
    until [[ -e $work/stop ]]; do
        number=$((number + 1))
        key=load-$1-$number
        touch "$work/pending/$key"
        until status=$(send "$work/client-$1" POST /contacts -H "Idempotency-Key: $key" \
            -d "$(body_of "$key")") && [[ $status == 201 ]]; do
            case $status in
            000 | 429 | 503) ;;
            *) echo "$key $status" >>"$work/unexpected" ;;
            esac
            if ((SECONDS > 300)); then return; fi
            sleep 0.02
        done
        mv "$work/client-$1.head" "$work/answers/$key.head"
        mv "$work/client-$1.body" "$work/answers/$key.body"
    done
}

# replay_all OUT: sends every key once more over one connection; prints "STATUS MARKER" lines.
replay_all() {
    local key
    for key in $(ls "$work/pending"); do
        printf 'url = "%s/public/v1/contacts"\noutput = "%s"\n' "$(<"$work/url")" "$1/$key.body"
        printf 'header = "Authorization: Bearer secret"\nheader = "Idempotency-Key: %s"\n' "$key"
        printf 'header = "Content-Type: application/json"\ndata = "%s"\n' \
            "$(body_of "$key" | sed 's/"/\\"/g')"
        printf 'write-out = "%%{http_code} %%header{idempotent-replayed}\\n"\nsilent\nnext\n'
    done | sed '$d' >"$work/config"
    curl --config "$work/config"
}

# find_all: prints how many contacts each key's email has, one number a line.
find_all() {
    local key
    for key in $(ls "$work/pending"); do
        printf 'url = "%s/public/v1/contacts?email=%s@example.com"\n' "$(<"$work/url")" "$key"
        printf 'header = "Authorization: Bearer secret"\nwrite-out = "\\n"\nsilent\nnext\n'
    done | sed '$d' >"$work/config"
    curl --config "$work/config" | awk '{ print gsub(/"id":/, "") }'
}

for ((number = 1; number <= CLIENTS; number++)); do
    client "$number" &
    clients+=($!)
done
for ((round = 1; round <= ROUNDS; round++)); do
    sleep "0.$((RANDOM % 500 + 300))"
    crash
    start
done
touch "$work/stop"
wait "${clients[@]}" || true

keys=$(ls "$work/pending" | wc -l | tr -d ' ')
early=$(grep -il '^idempotent-replayed: true' "$work"/answers/*.head | wc -l | tr -d ' ' || true)
echo "# $keys keys; $early had committed before a crash hid the answer, and got it on a retry"
check "every key was answered" same "$(ls "$work"/answers/*.body | wc -l | tr -d ' ')" "$keys"
check "clients saw only 201, 429, 503 and dead connections" test ! -e "$work/unexpected"
mkdir "$work/replays"
check "every key replays" \
    same "$(replay_all "$work/replays" | sort | uniq -c | xargs)" "$keys 201 true"
rm "$work"/answers/*.head
check "every replay returns the acknowledged bytes" \
    diff -rq "$work/answers" "$work/replays"
check "every key made exactly one contact" same "$(find_all | sort | uniq -c | xargs)" "$keys 1"

echo "# an orderly stop"
kill -TERM "$pid"
code=0
wait "$pid" || code=$?
check "SIGTERM ends the server with exit code 0" same "$code" 0
start
check "a replay survives the restart" same "$(send "$work/b" "${rename[@]}")" 200
check "with the marker" replayed "$work/b"

echo "$passed passed, $failed failed"
((failed == 0))
