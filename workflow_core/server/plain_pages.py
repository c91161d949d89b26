"""The page to log in with, for a server without the dashboard."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from starlette.responses import HTMLResponse

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import Response

__all__ = ["plain_login_page"]


async def plain_login_page(request: Request, status: int, there: str, mistake: str | None) -> Response:
    """Return a page with the form.

    Args:
        request: What asks for it.
        status: The status of the response.
        there: The path to go to after the login.
        mistake: What was wrong before.
    """
    root = html.escape(str(request.scope.get("root_path", "")))
    problem = "" if mistake is None else f'<p role="alert">{html.escape(mistake)}</p>'
    page = f"""<!DOCTYPE html>
<html lang="en">
<head>
  <meta charset="utf-8">
  <meta name="viewport" content="width=device-width, initial-scale=1">
  <title>Log in</title>
</head>
<body>
  <main>
    <h1>Workflows</h1>
    {problem}
    <form method="post" action="{root}/login">
      <input type="hidden" name="next" value="{html.escape(there)}">
      <label for="token">Token of the server</label>
      <input id="token" name="token" type="password" autocomplete="current-password" required autofocus>
      <button>Log in</button>
    </form>
  </main>
</body>
</html>
"""
    return HTMLResponse(page, status)
