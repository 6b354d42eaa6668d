# Reads a training log, prints the two lines that launch scripts for Ascend report: images a second, and the last loss.
# Plain POSIX awk (mawk, gawk, busybox). Variables: batch (images of one process in one pass), processes (over all
# machines), accumulation (passes to a step). No single quotes here: the launch script carries this program in a pair.
#
#   images a second = batch x processes x accumulation / mean seconds of a step
#
# The mean is over the steps after the first 100, or, of a run of up to 100 steps, over its second half: the first steps
# compile and warm up. It reads the progress bar that the training scripts draw with tqdm,
#   Steps:  40%|████      | 2/5 [00:03<00:04,  1.50s/it, loss=0.1, lr=0.0002]
# whose figure (s/it or it/s) is smoothed: after k steps it is z(k) / (1 - 0.7^k) with z(k) = 0.3 x(k) + 0.7 z(k-1)
# (tqdm/std.py, class EMA). Undone here, so that a slow first step does not weigh on the ones that count. A bar with
# smoothing=0 shows the mean since its start instead: with mean=1 a step is what the whole time has grown by. A bar that
# starts at a later step, in a run that goes on, is first drawn there, without a figure.
BEGIN { last = -1 }

{
  bar = $0
  while ((at = index(tolower(bar), "steps:")) > 0) { bar = substr(bar, at + 6); found = 1 }
  if (!found || !match(bar, /[0-9]+\/[0-9]+ \[[^]]*\]/)) { found = 0; next }
  found = 0
  bar = substr(bar, RSTART, RLENGTH)
  step = bar + 0
  if (match(bar, / (step_)?loss=[^],]*/)) { loss = substr(bar, RSTART, RLENGTH); sub(/.*=/, "", loss) }
  shown = 0
  if (match(bar, /[0-9.]+s\/it/)) shown = substr(bar, RSTART) + 0
  else if (match(bar, /[0-9.]+it\/s/) && substr(bar, RSTART) + 0 > 0) shown = 1 / (substr(bar, RSTART) + 0)

  if (step < last) { last = -1; steps = 0 }                     # a second bar: the run started anew
  if (last < 0) { last = shown > 0 ? step - 1 : step; first = shown > 0 ? 0 : step; fade = 1; smooth = 0; whole = 0 }
  if (step == last || shown <= 0) next

  if (mean) {
    seconds = (shown * (step - first) - whole) / (step - last)
    whole = shown * (step - first)
    while (last < step) { last++; took[++steps] = seconds }
    next
  }

  fade *= 0.7
  before = smooth
  smooth = shown * (1 - fade)
  seconds = (smooth - 0.7 * before) / 0.3
  if (step != last + 1 || seconds <= 0) seconds = shown         # steps that went by undrawn: as it is shown
  while (last < step) { last++; took[++steps] = seconds }
}

END {
  skip = steps > 100 ? 100 : int(steps / 2)
  for (i = skip + 1; i <= steps; i++) total += took[i]
  if (total > 0) printf "Final Performance images/sec : %.4g\n", batch * processes * accumulation * (steps - skip) / total
  else print "Final Performance images/sec : unknown (no training step in the log)"
  print "Final Train Loss : " (loss == "" ? "unknown (no training step in the log)" : loss)
}
