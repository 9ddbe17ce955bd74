#!/usr/bin/env bash
# KServe 0.21.0: after its only model has been unloaded, a model server is still "ready", and the unload itself is
# answered with an error although it was done.
#
#   gRPC RepositoryModelUnload("m")   INTERNAL, "Internal server error"; the model is gone all the same
#   GET /v2/models/m/ready            404
#   GET /v2/health/ready              200, {"ready": true}, with no model left
#
# So a readiness probe on /v2/health/ready sends traffic to a server that can answer nothing, and a caller who repeats
# a failed unload never sees it succeed. What the platform does: it probes the model, never the server, and stops a
# predictor's process instead of unloading its model.
#
# Needs python3.11. Exits non-zero if this changes.
set -euo pipefail
work=$(mktemp -d)
trap 'kill "${server:-0}" 2>/dev/null || true; rm -rf "$work"' EXIT
python3.11 -m venv "$work/env"
"$work/env/bin/pip" install -q --disable-pip-version-check 'kserve==0.21.0' setuptools
read -r rest grpc < <("$work/env/bin/python" -c '
import socket
pair = [socket.socket(), socket.socket()]
for s in pair: s.bind(("127.0.0.1", 0))
print(*(s.getsockname()[1] for s in pair))')
cat >"$work/serve.py" <<'PY'
import sys

from kserve import Model, ModelServer


class Echo(Model):
    def __init__(self) -> None:
        super().__init__("m")
        self.ready = True

    def predict(self, payload, headers=None):
        return payload


ModelServer(http_port=int(sys.argv[1]), grpc_port=int(sys.argv[2])).start([Echo()])
PY
cat >"$work/ask.py" <<'PY'
import sys
import time

import grpc
import httpx
from kserve.protocol.grpc.grpc_predict_v2_pb2 import RepositoryModelUnloadRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub

http = httpx.Client(base_url=f"http://127.0.0.1:{sys.argv[1]}")


def status(path: str) -> int:
    try:
        return http.get(path).status_code
    except httpx.TransportError:
        return 0


deadline = time.monotonic() + 120
while status("/v2/models/m/ready") != 200:
    assert time.monotonic() < deadline, "the model server did not start"
    time.sleep(0.5)
stub = GRPCInferenceServiceStub(grpc.insecure_channel(f"127.0.0.1:{sys.argv[2]}"))
try:
    stub.RepositoryModelUnload(RepositoryModelUnloadRequest(model_name="m"))
    unload = "OK"
except grpc.RpcError as error:
    unload = error.code().name
seen = {"unload": unload, "model": status("/v2/models/m/ready"), "server": status("/v2/health/ready")}
print(seen)
assert seen == {"unload": "INTERNAL", "model": 404, "server": 200}, "KServe answers otherwise now"
PY
"$work/env/bin/python" "$work/serve.py" "$rest" "$grpc" >/dev/null 2>&1 &
server=$!
"$work/env/bin/python" -W ignore "$work/ask.py" "$rest" "$grpc"
