"""Candles to a webhook. Here the receiver is this program; yours is a URL of https."""

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import streammachine as sf


class Receiver(BaseHTTPRequestHandler):
    def do_POST(self):
        rows = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["rows"]
        print(len(rows), "rows, the first:", rows[0]["text"], "key:", bool(self.headers["Idempotency-Key"]))
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_):
        pass


server = HTTPServer(("127.0.0.1", 0), Receiver)
threading.Thread(target=server.serve_forever, daemon=True).start()

emitter = sf.WebhookEmitter(f"http://127.0.0.1:{server.server_port}/candles", batch_size=30)
emitter.set_transformer(lambda row: {"text": f"{row['symbol']} closed at {row['close']}"})
backfill = sf.BinanceBackfilling("BTCUSDT", "1m", "2024-01-01T00:00", "2024-01-01T01:00")
backfill.register_emitter(emitter)
backfill.run()
server.shutdown()
