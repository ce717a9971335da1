// Sends the document to the server.

/**
 * Returns what became of it: {sent, text}.
 *
 * @param found the document.
 * @param job of the server.
 * @param base address of the page.
 */
export async function sendResults(found, job, base) {
  if (job.mode === "static") {
    return {
      sent: false,
      text: "Nobody takes results here: save them, and give the file to sdmobile on your computer.",
    };
  }
  const unsent = (why) => ({
    sent: false,
    text: `The results were not taken (${why}). Save them, and give the file to sdmobile on your computer.`,
  });
  let response;
  try {
    response = await fetch(new URL("results", base), {
      method: "POST",
      headers: { "Content-Type": "application/json" },
      body: JSON.stringify(found),
    });
  } catch {
    return unsent("the server does not answer");
  }
  const answer = await response.json().catch(() => ({}));
  if (response.status !== 201) return unsent(answer.error ?? `HTTP ${response.status}`);
  const other = answer.verdict !== found.verdict ? ` It judges for itself: ${answer.verdict}.` : "";
  return { sent: true, text: `The computer has the results (${answer.file}).${other} You can close this page.` };
}
