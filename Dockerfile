# One image for every role: the command says which (api, worker, scheduler, db upgrade).

# The base, to be pinned by digest: --build-arg PYTHON_IMAGE=python@sha256:…
ARG PYTHON_IMAGE=python:3.13-slim

FROM ${PYTHON_IMAGE} AS build
WORKDIR /src
COPY requirements.lock .
RUN python -m venv /opt/orchestrator \
    && /opt/orchestrator/bin/pip install --no-cache-dir --no-deps --require-hashes -r requirements.lock
COPY pyproject.toml LICENSE ./
COPY orchestrator orchestrator
COPY workers workers
COPY migrations migrations
RUN /opt/orchestrator/bin/pip install --no-cache-dir --no-deps .

FROM ${PYTHON_IMAGE}
# These belong to the service, and so does an empty volume that is mounted there first.
RUN useradd --system --uid 10001 --create-home orchestrator \
    && install -d -o orchestrator -g orchestrator /srv/volumes \
        /home/orchestrator/.local /home/orchestrator/.local/share \
        /home/orchestrator/.local/share/orchestrator
COPY --from=build /opt/orchestrator /opt/orchestrator
ENV PATH=/opt/orchestrator/bin:$PATH \
    PYTHONUNBUFFERED=1
USER orchestrator
WORKDIR /home/orchestrator
EXPOSE 8080
ENTRYPOINT ["orchestrator"]
CMD ["--help"]
