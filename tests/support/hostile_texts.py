"""Texts that are made to do harm wherever a text goes."""

# What each would do: leave the folder, run in a page, be a link, run in a spreadsheet, end a row, be read as TeX or as
# mathematics of matplotlib, move a cursor, turn the direction, be no file name.
LINES = (
    "x/../../../evil", "/evil", "..", "C:\\evil", "CON", "a" * 300, "",
    "<script>document.title='ran'</script>", "\"><img src=x onerror=\"document.title='ran'\">", "' onclick='alert(1)",
    "</style></title></script><svg onload=alert(1)>", "<!--", "-->", "]]>", "&lt;b&gt;", "<a href=//evil.example>x</a>",
    "[x](javascript:alert(1))", "![x](https://evil.example/x.png)", "<https://evil.example>", "https://evil.example",
    "www.evil.example", "a|b", "`x`", "**x**", "__x__", "~~x~~", "\\", "\\|", "\\[x](y)",
    '=HYPERLINK("https://evil.example","x")', "+1+1", "-1+1", "@SUM(1,1)", " =1+1", "-0.5", "＝1+1",
    "$", "$x_{$", "$\\frac{1}{2}$", "\\input{/etc/passwd}", "\\write18{touch evil}", "[9in]", "*", "%", "#1", "}",
    "^^41", "_hidden", "名", "\N{SNOWMAN}\N{PILE OF POO}",
)  # fmt: skip
OTHERS = (
    "\x1b[2J\x1b]0;evil\x07",
    "\u202egnp.exe",
    "one\n\n# two",
    "a\r=1+1",
    "\t=1+1",
    "\x00",
    "a\u2028b\u00ad",
    "\x85",
)
