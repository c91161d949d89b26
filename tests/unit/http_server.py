"""A server of HTTP in the test's process, which answers as it is told."""

import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class Answer:
    def __init__(self, status=200, body=b"", kind="application/json", **headers):
        self.status, self.body = status, body.encode() if isinstance(body, str) else body
        self.headers = {name.replace("_", "-"): value for name, value in headers.items()}
        if kind is not None:
            self.headers.setdefault("content-type", kind)


class Request:
    def __init__(self, method, path, headers, body):
        self.method, self.path, self.headers, self.body = method, path, headers, body


class Server:
    """Answers each path by its list of answers, the last one again and again; notes what it was asked."""

    def __init__(self):
        self.requests, self.answers, self.held = [], {}, threading.Event()
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                length = int(self.headers.get("content-length", 0))
                headers = {name.lower(): value for name, value in self.headers.items()}
                server.requests.append(Request(self.command, self.path, headers, self.rfile.read(length)))
                answers = server.answers.get(self.path.partition("?")[0], [Answer(404)])
                answer = answers.pop(0) if len(answers) > 1 else answers[0]
                if answer == "hold":
                    server.held.wait(30)
                    self.close_connection = True
                    return
                if answer == "break":
                    self.close_connection = True
                    return
                self.send_response(answer.status)
                for name, value in {
                    "content-length": str(len(answer.body)),
                    "connection": "close",
                    **answer.headers,
                }.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(answer.body)

            do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = answer

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        self._thread.start()

    def url(self, path="/", host="127.0.0.1"):
        return f"http://{host}:{self.port}{path}"

    def on(self, path, *answers):
        self.answers[path] = list(answers)
        return self.url(path)

    def close(self):
        self.held.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
