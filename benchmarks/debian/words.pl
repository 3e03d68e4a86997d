# Hashes, regular expressions and sorting.
use strict;
my ($rounds, %count, $total) = ($ARGV[0]);
for my $turn (1 .. $rounds) {
    for my $n (0 .. 2999) {
        my $word = ("abcdefgh" =~ /(.{@{[$n % 8]}})/)[0] . ($n * 7919 % 1000 + $turn);
        $count{$1}++ if $word =~ /([a-d]+\d)/;
        $total += length $word;
    }
}
print join(" ", map { "$_=$count{$_}" } sort { $count{$b} <=> $count{$a} || $a cmp $b } keys %count), " $total\n";
