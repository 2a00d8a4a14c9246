"""A Sphinx extension: references go by author and year, and say who cites them."""

from collections.abc import Iterator
from pathlib import Path

from docutils import nodes
from pybtex.plugin import register_plugin
from pybtex.richtext import Text
from pybtex.style.formatting.unsrt import Style
from pybtex.style.labels import BaseLabelStyle as LabelStyle
from pybtex.style.sorting import BaseSortingStyle as SortingStyle
from sphinx.application import Sphinx

import tangle
from hypertext import per_page

REFERENCES = "book/A5_references"


@per_page
def cited_by(app: Sphinx, doctree: nodes.document, docname: str) -> None:
    """After each reference, link the chapters that cite it."""
    if docname != REFERENCES:
        return
    domain = app.env.get_domain("cite")
    keys = {citation.citation_id: citation.key for citation in domain.citations}
    for node in doctree.findall(nodes.citation):
        key = next(keys[id_] for id_ in node["ids"] if id_ in keys)
        places = {
            ref.docname: ref.citation_ref_id
            for ref in reversed(domain.citation_refs)
            if key in {target.key for target in ref.targets}
        }
        line = nodes.inline("", " Cited in ", classes=["cited"])
        for n, (page, id_) in enumerate(sorted(places.items())):
            number = tangle.CHAPTER.fullmatch(Path(page).name)
            title = f"chapter {int(number[1])}" if number else "the appendix"
            there = app.builder.get_relative_uri(docname, page)
            line += [
                nodes.Text(", " * (n > 0)),
                nodes.reference("", title, refuri=f"{there}#{id_}", internal=True),
            ]
        if places:
            node[-1] += [line, nodes.Text(".")]


class AuthorYear(LabelStyle):
    """Labels of references as the text cites them: Vaswani et al., 2017."""

    def format_labels(self, entries) -> Iterator[str]:
        for entry in entries:
            names = [
                " ".join(person.prelast_names + person.last_names)
                for person in entry.persons["author"]
            ]
            names = [str(Text.from_latex(name)) for name in names]
            several = len(entry.persons["author"]) > 2
            told = f"{names[0]} et al." if several else " and ".join(names)
            yield f"{told}, {entry.fields['year']}"


class ByLabel(SortingStyle):
    """Entries in the order of their labels, as the text cites them."""

    def sorting_key(self, entry) -> str:
        [label] = AuthorYear().format_labels([entry])
        return label.lower()


class ByAuthor(Style):
    """The list of references, in the order of authors and years."""

    default_label_style, default_sorting_style = AuthorYear, "by_label"


def setup(app: Sphinx) -> dict:
    register_plugin("pybtex.style.sorting", "by_label", ByLabel)
    register_plugin("pybtex.style.formatting", "by_author", ByAuthor)
    app.connect("doctree-resolved", cited_by)
    return {"version": "1", "parallel_read_safe": True}
