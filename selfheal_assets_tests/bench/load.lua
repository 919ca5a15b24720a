-- Sends the bodies of a file (one a line) in turn; prints what was reached as one line.
local requests, n = {}, 0

function init(args)
   for line in io.lines(args[1]) do
      requests[#requests + 1] = wrk.format("POST", nil, {["Content-Type"] = "application/json"}, line)
   end
end

function request()
   n = n % #requests + 1
   return requests[n]
end

function done(summary, latency)
   local e = summary.errors
   io.write(string.format("RESULT %d %d %d %f %f\n", summary.requests, summary.duration,
      e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
