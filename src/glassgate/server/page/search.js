// Units that are on over exactly a span of words.

/** Units above the threshold at every word from..to, and not just before nor just after. */
export function onOver({ steps, units, numbers }, from, to, threshold) {
  const on = (step, unit) => numbers[step * units + unit] > threshold;
  const found = [];
  for (let unit = 0; unit < units; unit += 1) {
    let all = true;
    for (let step = from; step <= to && all; step += 1) all = on(step, unit);
    if (all && !(from > 0 && on(from - 1, unit)) && !(to + 1 < steps && on(to + 1, unit))) found.push(unit);
  }
  return found;
}
