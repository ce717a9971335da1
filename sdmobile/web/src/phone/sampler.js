// The sampling loop as the tables of scheduler.json hold it.
//
//   D  = what the prediction implies        x' = a·x + b·D + c·D₋₁ + d·D₋₂ + n·z

const CLEAN = {
  epsilon: (x, p, { alpha, sigma }) => (x - sigma * p) / alpha,
  v_prediction: (x, p, { alpha, sigma }) => alpha * x - sigma * p,
  sample: (_x, p) => p,
  flow: (x, p, { sigma }) => x - sigma * p,
};
const COLUMNS = new Set(["timestep", "alpha", "sigma", "a", "b", "c", "d", "n"]);

/**
 * Returns the rows of a solver for a number of steps, and what the initial noise is multiplied by.
 *
 * @param document content of scheduler.json.
 * @param steps number of steps.
 * @param name of the solver; its default if it is not given.
 */
export function tableOf(document, steps, name = document.default_solver) {
  const solver = document.solvers[name];
  const rows = solver?.steps[String(steps)];
  if (!rows) {
    const known = solver
      ? `${name} has ${Object.keys(solver.steps).join(", ")}`
      : Object.keys(document.solvers).join(", ");
    throw new Error(`scheduler.json has no table of ${name} for ${steps} steps: ${known}`);
  }
  if (!(document.prediction_type in CLEAN))
    throw new Error(`a prediction of the type ${document.prediction_type} is not known here`);
  const strange = rows.flatMap((row) => Object.keys(row)).find((column) => !COLUMNS.has(column));
  if (strange) throw new Error(`scheduler.json has a column that is not known here: ${strange}`);
  return { rows, start: solver.init_noise_sigma ?? document.init_noise_sigma };
}

/** Whether any row adds fresh noise. */
export function drawsNoise(rows) {
  return rows.some((row) => (row.n ?? 0) !== 0);
}

/** Returns D, the clean latent that a prediction implies. */
export function cleanLatent(predictionType, x, prediction, row) {
  const clean = CLEAN[predictionType];
  return Float64Array.from(x, (value, i) => clean(value, prediction[i], row));
}

/**
 * Returns the next latent, rounded to float32.
 *
 * @param row of the table.
 * @param x the latent.
 * @param cleans D of this step, of the one before, and of the one before that; those that there are.
 * @param noise z, or null where n is 0.
 */
export function nextLatent(row, x, cleans, noise) {
  const { a, b, c = 0, d = 0, n = 0 } = row;
  const [now, before, earlier] = cleans;
  return Float32Array.from(x, (value, i) => {
    let next = a * value + b * now[i];
    if (before) next += c * before[i];
    if (earlier) next += d * earlier[i];
    return n === 0 ? next : next + n * noise[i];
  });
}

/**
 * Runs a table.
 *
 * @param document content of scheduler.json.
 * @param table of `tableOf`.
 * @param x the initial latent.
 * @param predict async (x, timestep, index) to the guided prediction.
 * @param draw () to the next noise, in the layout of x.
 * @param onStep async (index, D) after each step.
 * @returns the last latent.
 */
export async function sampleLatent(document, table, x, { predict, draw, onStep = async () => {} }) {
  let cleans = [];
  for (const [index, row] of table.rows.entries()) {
    const prediction = await predict(x, row.timestep, index);
    cleans = [cleanLatent(document.prediction_type, x, prediction, row), ...cleans].slice(0, 3);
    x = nextLatent(row, x, cleans, (row.n ?? 0) === 0 ? null : draw());
    await onStep(index, cleans[0]);
  }
  return x;
}
