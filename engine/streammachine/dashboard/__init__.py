"""The dashboard: a fleet in the browser, live, with the actions that people need; nothing of it is loaded unless on"""
