# Runs children and checks their statuses, beside a thread; each child leaves an orphan behind.
$stdout.sync = true
Thread.new { loop { puts 'fault sum' if (1..1000).sum != 500_500; sleep 0.001 } }
number = 0
loop do
  number += 1
  Process.wait(spawn("sleep 0 & exit #{number % 100}"))
  puts "fault #{number} #{$?}" if $?.exitstatus != number % 100
  puts "tick #{number}"
  sleep 0.02
end
