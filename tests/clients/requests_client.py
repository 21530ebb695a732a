"""Python's requests with urllib3's Retry. Usage: requests_client.py URL COUNT OUT"""
import sys
from concurrent.futures import ThreadPoolExecutor

import requests
from requests.adapters import HTTPAdapter
from urllib3.util import Retry

URL, COUNT, OUT = sys.argv[1], int(sys.argv[2]), sys.argv[3]
RETRY = Retry(
    total=20,
    backoff_factor=0.05,
    backoff_max=1,
    allowed_methods=None,
    status_forcelist=[408, 429, 500, 502, 503, 504],
)


def write(number):
    key = f"requests-{number}"
    body = f'{{"first_name":"Load","email":"{key}@example.com"}}'
    headers = {
        "Authorization": "Bearer demo-token",
        "Content-Type": "application/json",
        "Idempotency-Key": key,
    }
    answers = []
    while len(answers) < 2:
        try:
            session = requests.Session()
            session.mount("http://", HTTPAdapter(max_retries=RETRY))
            reply = session.post(URL, data=body, headers=headers, timeout=20)
        except requests.RequestException:
            # A body that was cut, which the library leaves to its caller; or retries used up.
            continue
        if reply.status_code == 201 and not reply.content:
            # Cut within the headers, which http.client takes for their end.
            continue
        if reply.status_code != 201:
            raise SystemExit(f"{key}: {reply.status_code} {reply.text}")
        answers.append(reply.content)
    if answers[0] != answers[1]:
        raise SystemExit(f"{key}: two answers: {answers}")
    return f"{key} {answers[0].decode()}\n"


with ThreadPoolExecutor(4) as pool, open(OUT, "w") as out:
    out.writelines(pool.map(write, range(COUNT)))
