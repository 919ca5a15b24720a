"""The prediction service: answers cases, logs each answer durably, takes labels, follows the champion.

``scoring`` is the one code path that scores and logs, for the service and for ``selfheal replay`` alike;
``schemas`` derives requests and answers from the use case; ``routes`` and ``app`` are the FastAPI part;
``run`` starts uvicorn. Reads what Dagster publishes (``stores.snapshots``), never opens the warehouse, and knows
neither Dagster nor NannyML.
"""
