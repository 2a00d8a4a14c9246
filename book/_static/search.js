/* A result of the search shows the page's text, and nothing of what is around it. The
   chapter that is about a word comes before the glossary. */
Search.htmlToText = (html, anchor) => {
  const page = new DOMParser().parseFromString(html, "text/html");
  const article = page.querySelector("article.bd-article");
  if (!article) return "";
  const apart = ".headerlink, .opening, .minutes, .becomes, summary, script, style, svg";
  for (const element of article.querySelectorAll(apart)) element.remove();
  const part = anchor && article.querySelector(anchor);
  return (part || article).textContent;
};

const asked = new URLSearchParams(location.search).get("q")?.trim().toLowerCase();
Scorer.score = ([page, title, , , score]) =>
  title.replace(/<[^>]+>/g, "").replace(/^\d+\.\s/, "").toLowerCase() === asked ? score + 5
    : page.endsWith("_notation") ? Math.min(score, Scorer.title - 1) : score;
