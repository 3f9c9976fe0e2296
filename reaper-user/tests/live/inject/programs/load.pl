# Runs children and checks their statuses; each leaves an orphan behind.
use strict;
$| = 1;
for (my $number = 1;; $number++) {
    my $status = system('sh', '-c', 'sleep 0 & exit ' . $number % 100);
    print "fault $number $status\n" if $status >> 8 != $number % 100;
    print "tick $number\n";
    select(undef, undef, undef, 0.02);
}
