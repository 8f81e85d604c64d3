// Sphinx' own weights; and who pastes a message is looking for its page. What is pasted is longer
// than the gallery's wording and holds names of the reader's own. So words that the book does not
// know are left out, and a page of an error need not have all the others: rare ones count for more.
var Scorer = {
  objNameMatch: 11, objPartialMatch: 6, objPrio: { 0: 15, 1: 5, 2: -5 }, objPrioDefault: 0,
  title: 15, partialTitle: 7, term: 5, partialTerm: 2,
};

const errorsLike = (words, { terms, titleterms, docnames, titles, filenames }) => {
  const shares = new Map();
  let whole = 0;
  for (const word of words) {
    const lists = [terms, titleterms].filter((list) => Object.hasOwn(list, word));
    const pages = new Set(lists.flatMap((list) => list[word]));
    const weight = pages.size && Math.log(docnames.length / pages.size);
    whole += weight;
    for (const page of pages) shares.set(page, (shares.get(page) ?? 0) + weight);
  }
  return [...shares]
    .filter(([page, share]) => docnames[page].startsWith("errors/") && share >= whole / 4)
    .map(([page, share]) => [page, share / whole])
    .map(([page, share]) => [docnames[page], titles[page], "", null, 30 * share, filenames[page], "text"]);
};

// A page that is opened from a file may not read the others for a summary.
if (location.protocol === "file:") DOCUMENTATION_OPTIONS.SHOW_SEARCH_SUMMARY = false;

const strict = Search._performSearch;
Search._performSearch = (query, terms, ...others) => {
  const { terms: inText, titleterms: inTitles } = Search._index;
  const all = [...Object.keys(inText), ...Object.keys(inTitles)];
  const known = [...terms].filter((word) => all.some((term) => term.includes(word)));
  const asked = new Set(splitQuery(query.toLowerCase()));
  const isMessage = asked.size > 3 && /["':_`]|Error|Warning/.test(query); // no question
  if (isMessage) localStorage.removeItem("sphinx_highlight_terms"); // nearly every word of the page
  const more = isMessage ? errorsLike(known, Search._index) : [];
  const best = new Map(); // one hit a place
  for (const hit of [...strict(query, new Set(known), ...others), ...more]) {
    if (isMessage && hit[0].startsWith("errors/")) {
      const words = [...new Set(splitQuery(hit[1].toLowerCase()))];
      hit[4] += 20 + (30 * words.filter((word) => asked.has(word)).length) / words.length;
    }
    const place = hit[0] + hit[2];
    if (hit[4] > (best.get(place)?.[4] ?? -1)) best.set(place, hit);
  }
  return [...best.values()].sort((a, b) => a[4] - b[4]);
};
