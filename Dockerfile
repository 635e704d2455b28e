# The MCP server over HTTP. It needs tokens to serve other machines: docs/http.md.
FROM python:3.13-slim AS build
RUN apt-get update \
 && apt-get install --no-install-recommends --yes gcc libc6-dev \
 && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY pyproject.toml README.md LICENSE constraints.txt ./
COPY engine engine
COPY server server
COPY prompts prompts
RUN python -m venv /app \
 && /app/bin/pip install --no-cache-dir --constraint constraints.txt '.[charts,indicators,sql]'

FROM python:3.13-slim
LABEL org.opencontainers.image.title="streammachine-mcp" \
      org.opencontainers.image.version="0.1.0" \
      org.opencontainers.image.licenses="MIT"
RUN useradd --system --uid 1000 --create-home streammachine \
 && mkdir --mode 1777 /data
COPY --from=build /app /app
ENV PATH=/app/bin:$PATH \
    PYTHONUNBUFFERED=1 \
    STREAMMACHINE_DATA_DIR=/data \
    STREAMMACHINE_HTTP_TOKENS=/run/tokens.csv
USER 1000
VOLUME /data
EXPOSE 8765
HEALTHCHECK --interval=30s --timeout=6s --start-period=20s \
  CMD ["python", "-c", "import urllib.request; urllib.request.urlopen('http://127.0.0.1:8765/health', timeout=5)"]
STOPSIGNAL SIGTERM
ENTRYPOINT ["streammachine-mcp", "--transport", "http", "--host", "0.0.0.0", "--port", "8765"]
CMD ["--allowed-hosts", "localhost"]
