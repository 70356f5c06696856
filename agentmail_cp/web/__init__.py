"""The HTTP edge: routes, bodies, authentication and errors. No decisions about mail are made here."""
