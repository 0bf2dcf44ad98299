"""The records: how images were drawn (`SampleRun`), and what was measured of them (`EvalResult`)."""
