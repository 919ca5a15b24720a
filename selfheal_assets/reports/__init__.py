"""HTML reports: self-contained pages with plots, written for people who were not there.

``page``           the page as data (sections of figures, tables, terms, entries), and its one template
``figures``        plotly figures as plain data: palette, axes, small helpers
``text``           numbers, moments and statuses as people read them
``statuses``       statuses and decisions as badges
``drift``          the page of one monitoring chunk (``drift_figures``, ``drift_tables``, ``distributions``)
``replay``         the page of a whole replay (``replay_figures``)
``console``        a replay on a terminal
``plots``          small pictures for the Dagster UI

A report takes frames and returns HTML. It computes nothing that a decision rests on, reads no store and no
clock. A new kind of report is a module that builds a ``page.Page``.
"""
